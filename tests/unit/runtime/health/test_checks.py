"""Figures become checks: the right status, words that help, and never better as a figure gets worse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.health import checks
from runtime.health.checks import Check, Status

OK, DEGRADED, FAILED = Status.OK, Status.DEGRADED, Status.FAILED
GB = 10**9


def engine(**changes) -> Check:  # type: ignore[no-untyped-def]
    given = {"loaded": True, "draining": False, "stalled": False, "failures": 0, "age_s": 1.0}
    return checks.check_engine(**given | changes)


@pytest.mark.parametrize(
    ("check", "status", "says"),
    [
        (engine(), OK, "Steps end as they should."),
        (engine(loaded=False), FAILED, "No model is loaded."),
        (engine(stalled=True, age_s=41.2), FAILED, "There is work, and no step has ended for 41 s."),
        (engine(stalled=True, age_s=None, draining=True), FAILED, "There is work, and no step has ended."),
        (engine(failures=1), DEGRADED, "The last step failed."),
        (engine(failures=3), FAILED, "The last 3 steps failed."),
        (engine(draining=True), DEGRADED, "The daemon is shutting down."),
        (checks.check_provider("CPU", "CPU"), OK, "The model runs on CPU, as its profile asks."),
        (checks.check_provider("NPU", "CPU"), DEGRADED, "The model runs on CPU, and its profile asks for NPU."),
        (checks.check_speed(None, 20.0, "expected"), OK, "Nothing was generated in the last minute."),
        (checks.check_speed(9.0, None, ""), OK, "9.0 tokens/s for one stream; what to expect here is not known."),
        (checks.check_speed(10.0, 20.0, "were seen"), OK, "10.0 tokens/s for one stream; 20.0 were seen."),
        (checks.check_speed(9.9, 20.0, "were seen"), DEGRADED, "9.9 tokens/s for one stream; 20.0 were seen."),
        (checks.check_speed(3.9, 20.0, "were seen"), FAILED, "3.9 tokens/s for one stream; 20.0 were seen."),
        (checks.check_queue(31, 64), OK, "31 of at most 64 requests wait."),
        (checks.check_queue(32, 64), DEGRADED, "32 of at most 64 requests wait."),
        (checks.check_queue(64, 64), FAILED, "64 of at most 64 requests wait."),
        (checks.check_memory(GB, 4 * GB, None, None, None), OK, "1000 MB are available."),
        (checks.check_memory(GB // 5, 4 * GB, None, None, None), DEGRADED, "200 MB are available."),
        (checks.check_memory(GB // 20, 4 * GB, None, None, None), FAILED, "50 MB are available."),
        (
            checks.check_memory(GB, 4 * GB, 95 * GB // 100, GB, None),
            DEGRADED,
            "950 MB of the 1000 MB that the unit may use are in use.",
        ),
        (
            checks.check_memory(GB, 4 * GB, None, None, 45.0),
            FAILED,
            "All work waited for memory 45 % of the last ten seconds.",
        ),
        (
            checks.check_memory(None, None, None, None, None),
            OK,
            "This board does not tell how much memory is available.",
        ),
        (checks.check_temperature(79.9, 80), OK, "79.9 C; the limit is 80 C."),
        (checks.check_temperature(80.0, 80), DEGRADED, "80.0 C; the limit is 80 C."),
        (checks.check_temperature(85.0, 80), FAILED, "85.0 C; the limit is 80 C."),
        (checks.check_temperature(None, 80), OK, "No sensor answers."),
        (checks.check_throttling(None), OK, "This board does not tell whether it throttles."),
        (checks.check_throttling(()), OK, "The board does not throttle."),
        (checks.check_throttling(("under-voltage",)), DEGRADED, "The board throttles itself: under-voltage."),
        (checks.check_power(0, 5, "", wanted=False), OK, "The engine may use all of its power."),
        (checks.check_power(2, 5, "hot", wanted=False), DEGRADED, "The engine is 2 of 5 levels down: hot."),
        (checks.check_power(2, 5, "asked for", wanted=True), OK, "The engine is 2 of 5 levels down: asked for."),
        (checks.check_disk(GB), OK, "1000 MB are free."),
        (checks.check_disk(GB // 4), DEGRADED, "250 MB are free."),
        (checks.check_disk(0), FAILED, "0 MB are free."),
        (checks.check_disk(None), OK, "This board does not tell how much room there is."),
        (
            checks.check_latency(700.0, 2000.0, "a prompt takes 2 s"),
            OK,
            "95 % of the requests had their first token within 700 ms; a prompt takes 2 s.",
        ),
        (checks.check_latency(None, 2000.0, ""), OK, "Nobody asked in the last minute."),
        (
            checks.check_footprint(500_000_000, GB, 400_000_000, 50_000_000),
            OK,
            "The daemon takes 500 MB, 50 MB of it since it was ready and beside the KV in use; at most 1000 MB were"
            " promised.",
        ),
        (
            checks.check_footprint(GB, GB, 400_000_000, 50_000_000),
            DEGRADED,
            "The daemon takes 1000 MB, 550 MB of it since it was ready and beside the KV in use; at most 1000 MB were"
            " promised.",
        ),
    ],
)
def test_what_is_found_is_said_and_judged(check: Check, status: Status, says: str) -> None:
    """What is not well comes with something to do; what is well does not."""
    assert (check.status, check.summary) == (status, says)
    assert bool(check.recommendation) == (status is not OK)
    assert bool(check.unit) == (check.value is not None or check.bound is not None)


def test_every_warning_is_a_check() -> None:
    """And where there are none, that is said."""
    assert [(each.status, each.summary) for each in checks.check_warnings([])] == [(OK, "There is nothing to warn of.")]
    found = checks.check_warnings([("TCP is plain.", "Use TLS."), ("The certificate expires.", "Renew it.")])
    assert [(each.status, each.summary, each.recommendation) for each in found] == [
        (DEGRADED, "TCP is plain.", "Use TLS."),
        (DEGRADED, "The certificate expires.", "Renew it."),
    ]


def test_the_worst_counts() -> None:
    assert checks.worst([]) is OK
    assert checks.worst([engine(), engine(failures=1)]) is DEGRADED
    assert checks.worst([engine(stalled=True), engine(), engine(failures=1)]) is FAILED


BYTES = st.integers(0, 1 << 40)
RISING: dict[str, Callable[[float], Check]] = {
    "failures": lambda value: engine(failures=int(value)),
    "temperature": lambda value: checks.check_temperature(value, 80.0),
    "first token": lambda value: checks.check_latency(value, 2000.0, ""),
    "token time": lambda value: checks.check_token_time(value, 50.0, rows=4, token_cost=0.2),
    "queue": lambda value: checks.check_queue(int(value), 64),
    "stalled": lambda value: checks.check_memory(GB, 4 * GB, None, None, value),
    "unit": lambda value: checks.check_memory(GB, 4 * GB, int(value * 1e6), GB, None),
    "unit, of a board with little memory": lambda value: checks.check_memory(9, 4 * GB, int(value * 1e6), GB, None),
    "footprint": lambda value: checks.check_footprint(int(value * 1e6), GB, 300_000_000, 0),
    "slowness": lambda value: checks.check_speed(1e4 / (value + 1), 100.0, ""),
    "memory in use": lambda value: checks.check_memory(max(0, 2 * GB - int(value * 1e6)), 4 * GB, 7, 8, None),
    "disk in use": lambda value: checks.check_disk(max(0, GB - int(value * 1e6))),
}


@pytest.mark.parametrize("figure", RISING)
@given(values=st.tuples(st.floats(0, 5000), st.floats(0, 5000)))
def test_a_worse_figure_never_gives_a_better_status(figure: str, values: tuple[float, float]) -> None:
    low, high = (RISING[figure](value).status for value in sorted(values))
    assert low <= high


@pytest.mark.parametrize("figure", RISING)
def test_every_figure_can_be_well_and_bad(figure: str) -> None:
    """Else the rule above would be empty."""
    assert RISING[figure](5000.0).status > OK
    assert RISING[figure](0.0).status is OK or "little" in figure
