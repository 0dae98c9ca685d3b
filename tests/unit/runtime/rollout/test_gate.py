"""The gate: whatever a package does on trial, it is kept or given up, in bounded time and for a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.rollout.gate import FAILED_S, SETTLE_S, Gate, Look, Terms, Verdict

TERMS = Terms(commit_after_s=600.0, commit_after_calls=200)
LONGEST_S = 5.0

terms = st.builds(Terms, st.floats(1, 2000), st.integers(1, 500))
steps_s = st.floats(0.1, LONGEST_S)


def decide(gate: Gate, looks: list[tuple[float, str, int, int]]) -> tuple[Verdict, float]:
    """The first verdict that is none to wait, and when; looks are (seconds since the last, fault, calls, broken)."""
    now_s, calls, broken = 0.0, 0, 0
    for step_s, fault, more, more_broken in looks:
        now_s, calls, broken = now_s + step_s, calls + more, broken + more_broken
        verdict = gate.update(Look(now_s, fault, calls=calls, broken=broken))
        if verdict.action != "wait":
            return verdict, now_s
    return Verdict("wait"), now_s


@given(
    terms, st.lists(st.tuples(steps_s, st.sampled_from(["", "slow"]), st.integers(0, 3), st.integers(0, 1))), st.data()
)
def test_every_trial_ends_in_bounded_time(
    its: Terms, looks: list[tuple[float, str, int, int]], data: st.DataObject
) -> None:
    """After what a commit takes and what a package may be unwell, at the latest; and never without a reason."""
    most_s = its.commit_after_s + FAILED_S + 2 * LONGEST_S
    pattern = looks or [(1.0, data.draw(st.sampled_from(["", "slow"])), 0, 0)]
    per_round_s = sum(step for step, *_ in pattern)
    verdict, at_s = decide(Gate(its, 0.0), pattern * (int(most_s / per_round_s) + 2))
    assert verdict.action != "wait"
    assert at_s <= most_s + per_round_s
    assert verdict.why


@given(terms, st.lists(st.tuples(steps_s, st.just(""), st.integers(0, 20), st.just(0)), min_size=1, max_size=2000))
def test_a_package_that_is_always_well_is_never_given_up(its: Terms, looks: list[tuple[float, str, int, int]]) -> None:
    """And is kept no sooner than the terms say."""
    verdict, at_s = decide(Gate(its, 0.0), looks)
    assert verdict.action != "roll_back"
    if verdict.action == "commit":
        assert at_s >= min(its.commit_after_s, SETTLE_S) - 1e-6
        enough_calls = sum(more for _, _, more, _ in looks) >= its.commit_after_calls
        assert enough_calls or at_s >= its.commit_after_s - 1e-6


@given(terms, st.lists(st.tuples(steps_s, st.just("no step works"), st.integers(0, 9), st.just(0)), max_size=2000))
def test_a_package_that_is_never_well_is_never_kept(its: Terms, looks: list[tuple[float, str, int, int]]) -> None:
    """However many calls end well."""
    verdict, at_s = decide(Gate(its, 0.0), looks)
    assert verdict.action != "commit"
    assert (verdict.action == "roll_back") == (at_s > FAILED_S)


@given(st.floats(0, 1e6), st.sampled_from(["", "slow"]))
def test_time_that_nobody_saw_decides_nothing(gap_s: float, fault: str) -> None:
    """A daemon that stood still, as with a board that slept, knows neither good nor bad of that time."""
    gate = Gate(TERMS, 0.0)
    assert gate.update(Look(gap_s, fault)).action == "wait"
    assert gate.healthy_s + gate.failed_s <= LONGEST_S
    assert gate.update(Look(gap_s - 10.0, fault)).action == "wait", "a clock that goes back adds nothing"


def test_calls_commit_only_after_a_minute() -> None:
    gate = Gate(TERMS, 0.0)
    for second in range(1, 60):
        assert gate.update(Look(float(second), calls=10_000)).action == "wait"
    assert gate.update(Look(60.0, calls=10_000)) == Verdict("commit", "10000 calls ended well, in 60 s")


def test_an_engine_that_hangs_is_given_up_at_once() -> None:
    """Systemd ends the process soon: the state must say it before."""
    assert Gate(TERMS, 0.0).update(Look(1.0, stalled=True)) == Verdict("roll_back", "the engine hangs")


@pytest.mark.parametrize(
    ("calls", "broken", "action"), [(0, 2, "wait"), (0, 3, "roll_back"), (57, 3, "wait"), (56, 3, "roll_back")]
)
def test_calls_that_the_model_breaks_give_it_up(calls: int, broken: int, action: str) -> None:
    """Three, and more than one of twenty."""
    assert Gate(TERMS, 0.0).update(Look(1.0, calls=calls, broken=broken)).action == action
