"""What is counted of callers who get an error: methods that there are, and no words of the callers' own."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from runtime.access.call_errors import OTHER, CallErrors
from runtime.access.methods import NEEDS


@given(st.lists(st.text() | st.sampled_from(sorted(NEEDS))))
def test_no_caller_adds_a_series(methods: list[str]) -> None:
    """Whatever methods they call: all that the daemon does not have count as one, and none is lost."""
    errors = CallErrors()
    for method in methods:
        errors.add(method, "UNIMPLEMENTED")
    totals = errors.totals()
    assert {method for method, _ in totals} <= {*NEEDS, OTHER}
    assert sum(totals.values()) == len(methods)


def test_threads_lose_nothing() -> None:
    errors = CallErrors()
    threads = [
        threading.Thread(target=lambda: [errors.add("/v1/models", "UNKNOWN") for _ in range(5000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors.totals() == {("/v1/models", "UNKNOWN"): 20_000}
