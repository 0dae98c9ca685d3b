"""Rates, and who has had too much: without a clock of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.access.limits import Bucket, Excess, LimitBook, Limiter, Limits


def limiter(max_clients: int = 1024, **limits: int) -> Limiter:
    return Limiter(LimitBook(Limits(**limits)), max_clients=max_clients)


def test_a_minutes_worth_may_come_at_once_and_then_so_much_a_minute() -> None:
    """And who is refused is told when exactly it will be let in."""
    limits = limiter(requests_per_minute=3)
    assert [limits.admit("a", [1], 100.0) for _ in range(3)] == [None] * 3
    assert limits.admit("a", [1], 100.0) == Excess("requests_per_minute", 20.0)
    assert limits.admit("a", [1], 119.9) == Excess("requests_per_minute", pytest.approx(0.1))
    assert limits.admit("a", [1], 120.0) is None
    assert limits.admit("b", [1], 120.0) is None


def test_tokens_are_charged_as_they_come() -> None:
    """The prompt at once, the answer by and by: below zero, where the client then waits until that is filled up."""
    limits = limiter(tokens_per_minute=600)
    assert limits.admit("a", [100], 0.0) is None
    limits.generated("a", 700, 0.0)
    assert limits.admit("a", [10], 0.0) == Excess("tokens_per_minute", 21.0)
    assert limits.admit("a", [10], 21.0) is None


def test_more_than_a_minutes_worth_waits_for_a_full_minute_only() -> None:
    """A prompt above the rate is slow, not impossible; it is charged whole."""
    limits = limiter(tokens_per_minute=60, requests_per_minute=2)
    assert limits.admit("a", [90], 0.0) is None
    assert limits.admit("a", [90], 0.0) == Excess("tokens_per_minute", 90.0)
    assert limits.admit("a", [1, 1, 1], 90.0) is None
    assert limits.admit("a", [1], 90.0) == Excess("requests_per_minute", 60.0)


def test_several_are_let_in_together_or_not_at_all() -> None:
    limits = limiter(requests_per_minute=4, concurrent_requests=3)
    assert limits.admit("a", [1] * 3, 0.0) is None
    assert limits.admit("a", [1], 0.0) == Excess("concurrent_requests", None)
    limits.ended("a")
    assert limits.admit("a", [1] * 2, 0.0) == Excess("concurrent_requests", None)
    limits.ended("a")
    assert limits.admit("a", [1] * 2, 0.0) == Excess("requests_per_minute", 15.0)
    assert limits.admit("a", [1], 0.0) is None


def test_a_refusal_costs_nothing() -> None:
    """Who asks again and again waits no longer than who waits."""
    limits = limiter(requests_per_minute=1, tokens_per_minute=10)
    assert limits.admit("a", [5], 0.0) is None
    for _ in range(50):
        assert limits.admit("a", [5], 0.0) == Excess("requests_per_minute", 60.0)
    assert limits.admit("a", [5], 60.0) is None


def test_a_board_without_limits_remembers_nobody() -> None:
    limits = limiter(prompt_tokens=5, output_tokens=5)
    for number in range(100):
        assert limits.admit(f"client {number}", [1000] * 9, 0.0) is None
        limits.generated(f"client {number}", 5, 0.0)
        for _ in range(9):
            limits.ended(f"client {number}")
    assert len(limits) == 0


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 50)), max_size=50),
)
def test_whatever_the_clock_does_a_bucket_is_never_more_than_full(
    per_minute: int, steps: list[tuple[float, int]]
) -> None:
    """And time that goes back neither fills it nor empties it."""
    now_s, bucket = 0.0, Bucket(per_minute, 0.0)
    for step_s, amount in steps:
        before = bucket.level(now_s)
        now_s += step_s
        after = bucket.level(now_s)
        assert before <= after <= per_minute
        assert step_s > 0 or after == before
        bucket.take(amount, now_s)
        assert bucket.level(now_s) == after - amount


@given(st.lists(st.tuples(st.floats(0, 90), st.integers(1, 30), st.integers(0, 30)), max_size=60))
def test_nobody_gets_more_than_the_rate(asked: list[tuple[float, int, int]]) -> None:
    """Over any time: a minute's worth, what the rate gives, and the one that was let in last."""
    limits, now_s, had = limiter(tokens_per_minute=60), 0.0, 0
    for gap_s, prompt, answer in asked:
        now_s += gap_s
        if limits.admit("a", [prompt], now_s) is None:
            limits.generated("a", answer, now_s)
            limits.ended("a")
            had += prompt + answer
        assert had <= 60 + now_s + 30


@given(st.data())
def test_who_is_told_to_wait_is_let_in_then(data: st.DataObject) -> None:
    """If it sends nothing else meanwhile."""
    limits = limiter(requests_per_minute=data.draw(st.integers(1, 9)), tokens_per_minute=data.draw(st.integers(1, 99)))
    now_s = 0.0
    for _ in range(20):
        prompt = data.draw(st.integers(1, 150))
        excess = limits.admit("a", [prompt], now_s)
        if excess is not None:
            assert excess.wait_s is not None
            now_s += excess.wait_s + 1e-6
            again = limits.admit("a", [prompt], now_s)
            assert again is None
        limits.generated("a", data.draw(st.integers(0, 99)), now_s)


def test_it_remembers_only_so_many_clients() -> None:
    """Those that are as new go first; who owes, or has something running, is remembered for as long as can be."""
    limits = limiter(max_clients=3, tokens_per_minute=60, concurrent_requests=9)
    limits.admit("runs", [1], 0.0)
    limits.admit("owes", [60], 0.0)
    limits.ended("owes")
    limits.admit("was here", [1], 0.0)
    limits.ended("was here")
    assert limits.admit("new", [1], 30.0) is None
    assert len(limits) == 3
    assert limits.admit("owes", [60], 30.0) == Excess("tokens_per_minute", 30.0)
    for number in range(100):
        limits.admit(f"client {number}", [60], 30.0)
        limits.ended(f"client {number}")
    assert len(limits) <= 3
    limits.generated("runs", 120, 30.0)
    assert limits.admit("runs", [1], 30.0) == Excess("tokens_per_minute", 61.0)


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(0, 3000))
def test_who_waits_for_a_full_minute_waits_as_long_under_new_limits(before: int, after: int, had: int) -> None:
    limits = limiter(tokens_per_minute=before)
    limits.admit("a", [1], 0.0)
    limits.generated("a", had, 0.0)
    old = limits.admit("a", [before], 0.0)
    limits.follow(LimitBook(Limits(tokens_per_minute=after)), 0.0)
    new = limits.admit("a", [after], 0.0)
    assert old is not None
    assert old.wait_s is not None
    assert new == Excess("tokens_per_minute", pytest.approx(old.wait_s))


def test_what_runs_counts_among_those_at_once_from_the_first_limit_on() -> None:
    """Also where there was no limit when it began; and when it has ended it counts no more."""
    limits = limiter()
    assert limits.admit("a", [1, 1], 0.0) is None
    limits.follow(LimitBook(Limits(concurrent_requests=2)), 0.0)
    assert limits.admit("a", [1], 0.0) == Excess("concurrent_requests", None)
    limits.ended("a")
    assert limits.admit("a", [1], 0.0) is None
    limits.follow(LimitBook(), 0.0)
    assert limits.admit("a", [1] * 9, 0.0) is None
    for _ in range(11):
        limits.ended("a")
    assert len(limits) == 0


def test_a_limit_that_is_lifted_is_forgotten() -> None:
    """With whatever was owed; one that comes again begins with a whole minute."""
    limits, book = limiter(requests_per_minute=1), LimitBook(Limits(requests_per_minute=1))
    assert limits.admit("a", [1], 0.0) is None
    limits.ended("a")
    limits.follow(LimitBook(), 0.0)
    assert len(limits) == 0
    limits.follow(book, 0.0)
    assert limits.admit("a", [1], 0.0) is None
    assert limits.admit("a", [1], 0.0) is not None
