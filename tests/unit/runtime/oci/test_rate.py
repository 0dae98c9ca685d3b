"""Bandwidth and patience, by clocks that tests turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.runtime.oci.remotes import Clock

from runtime.oci.patience import Patience
from runtime.oci.rate import Rate, parse_rate


@given(rate=st.integers(1, 10**9), steps=st.lists(st.tuples(st.integers(1, 65536), st.floats(0, 5)), max_size=40))
def test_no_more_passes_than_may(rate: int, steps: list[tuple[int, float]]) -> None:
    """From the start to any moment: the rate times the time, and one burst."""
    clock = Clock()
    bucket = Rate(rate, clock, clock.sleep)
    passed = 0
    for count, pause_s in steps:
        clock.now_s += pause_s
        bucket.take(count)
        passed += count
        assert passed <= rate * (clock.now_s - 100.0 + 0.25) * (1 + 1e-9) + 1e-3


def test_a_steady_stream_has_the_whole_rate() -> None:
    clock = Clock()
    bucket = Rate(1_000_000, clock, clock.sleep)
    for _ in range(1000):
        bucket.take(65_536)
    assert clock.now_s - 100.0 == pytest.approx(65.536 - 0.25)


@pytest.mark.parametrize(
    ("text", "expected"), [("500K", 512_000), ("2M", 2 << 20), ("2m", 2 << 20), ("1.5G", 3 << 29), ("12", 12)]
)
def test_rates_are_as_curl_has_them(text: str, expected: int) -> None:
    assert parse_rate(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1M", "2MB", "M", "1e3", "2 M", "٢M", "1.2345M", "9" * 13])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="looks like"):
        parse_rate(text)


@given(st.integers(1, 5000), st.floats(0, 1), st.none() | st.floats(0, 1e6))
def test_waits_grow_and_end(failures: int, draw: float, asked_s: float | None) -> None:
    """Never more than half a minute by themselves; what a registry asks for is kept to, up to two minutes."""
    waits: list[float] = []
    Patience(5, waits.append, lambda: draw).wait(failures, asked_s)
    [waited_s] = waits
    assert min(asked_s or 0, 120) <= waited_s <= max(30, min(asked_s or 0, 120) + 15)
    assert waited_s >= min(15, 0.25 * 2 ** min(failures - 1, 20))


def test_a_fleet_does_not_come_back_together() -> None:
    """Half of a wait is at random."""
    waits: list[float] = []
    for draw in (0.0, 0.5, 1.0):
        Patience(5, waits.append, lambda draw=draw: draw).wait(4)  # type: ignore[misc]
    assert waits == [2.0, 3.0, 4.0]
