"""What follows from measurements: properties that hold for all of them, and the cases that boards are known for."""

from __future__ import annotations

from statistics import median

from hypothesis import given
from hypothesis import strategies as st

from runtime.board.tuning import (
    MAX_THREADS,
    SLACK,
    Threads,
    choose_common,
    choose_threads,
    fewest_near_best,
    row_candidates,
    rows_that_pay,
    thread_candidates,
    token_cost,
)
from runtime.engine.speculation import TOKEN_COST

rates = st.lists(st.floats(0.1, 1e4), min_size=1, max_size=5)
by_threads = st.lists(st.tuples(rates, rates), min_size=1, max_size=8)


def measured(both: list[tuple[list[float], list[float]]]) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Prefill and decode, by 1, 2, 3 ... threads."""
    return ({n: its for n, (its, _) in enumerate(both, 1)}, {n: its for n, (_, its) in enumerate(both, 1)})


def request_s(prefill: dict[int, list[float]], decode: dict[int, list[float]], threads: Threads) -> float:
    return 256 / median(prefill[threads.prefill]) + 128 / median(decode[threads.decode])


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=400))
def test_candidates_are_numbers_of_cores_there_are(capacities: list[int]) -> None:
    """Ascending, from one to all cores, with the fast ones alone among them."""
    found = thread_candidates(capacities)
    assert list(found) == sorted(set(found))
    assert found[0] == 1
    assert found[-1] == min(len(capacities), MAX_THREADS)
    assert min(capacities.count(max(capacities)), MAX_THREADS) in found or len(capacities) > MAX_THREADS


def test_candidates_of_a_large_machine_are_few() -> None:
    """Four of six speeds more would take no longer to measure than a board does."""
    assert thread_candidates([1024] * 4) == (1, 2, 3, 4)
    assert len(thread_candidates([1024] * 10 + [400] * 54)) <= 15


@given(st.dictionaries(st.integers(1, 64), st.floats(1e-6, 1e3), min_size=1))
def test_the_fewest_that_are_as_fast_as_the_best(times: dict[int, float]) -> None:
    """Within the slack of the shortest time, and nothing below is."""
    best, limit = fewest_near_best(times), min(times.values()) * (1 + SLACK)
    assert times[best] <= limit
    assert all(times[count] > limit for count in times if count < best)


@given(by_threads)
def test_two_numbers_of_threads_have_to_pay(both: list[tuple[list[float], list[float]]]) -> None:
    """They save a twentieth of a request's time against one number; no other one is better than that by the slack."""
    prefill, decode = measured(both)
    common, chosen = choose_common(prefill, decode), choose_threads(prefill, decode)
    whole = request_s(prefill, decode, common)
    assert common.prefill == common.decode
    assert all(whole <= (1 + SLACK) * request_s(prefill, decode, Threads(n, n)) * (1 + 1e-9) for n in prefill)
    assert chosen == common or request_s(prefill, decode, chosen) < 0.95 * whole


@given(by_threads, st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_only_ratios_count(both: list[tuple[list[float], list[float]]], speed: float) -> None:
    """A board that is so many times as fast gets the same settings."""
    prefill, decode = measured(both)
    faster = [{n: [speed * rate for rate in its] for n, its in side.items()} for side in (prefill, decode)]
    assert choose_threads(*faster) == choose_threads(prefill, decode)
    assert rows_that_pay(faster[1]) == rows_that_pay(decode)


def test_a_board_whose_memory_is_the_limit_decodes_on_fewer_threads() -> None:
    """Prefill gains from four cores, decode has all the bandwidth with two: so it is on boards like a Raspberry Pi."""
    prefill = {1: [20.0], 2: [39.0], 3: [57.0], 4: [74.0]}
    decode = {1: [9.0], 2: [14.0], 3: [13.0], 4: [11.5]}
    assert choose_threads(prefill, decode) == Threads(prefill=4, decode=2)
    nearly = {1: [9.0], 2: [13.6], 3: [13.8], 4: [13.9]}
    assert choose_threads(prefill, nearly) == Threads(prefill=4, decode=4)


def test_a_round_that_was_disturbed_does_not_decide() -> None:
    """The median of the rounds counts."""
    calm = {1: [10.0, 10.0, 10.0], 2: [20.0, 20.0, 20.0]}
    disturbed = {1: [10.0, 10.0, 10.0], 2: [20.0, 2.0, 20.0]}
    assert choose_threads(calm, calm) == choose_threads(disturbed, disturbed) == Threads(2, 2)


@given(st.integers(0, 100_000))
def test_rows_fit_the_budget(kv_budget_tokens: int) -> None:
    """One row is always tried; more have 256 tokens each."""
    found = row_candidates(kv_budget_tokens)
    assert found[0] == 1
    assert found[-1] == 1 or found[-1] * 256 <= kv_budget_tokens
    assert found[-1] <= 16


@given(st.integers(1, 16))
def test_rows_beyond_which_nothing_is_gained(knee: int) -> None:
    """The total rises in step with the rows up to a point, and stays."""
    assert rows_that_pay({rows: [10.0 * min(rows, knee)] for rows in range(1, 17)}) == knee


@given(st.floats(0.01, 1.0), st.floats(1e-4, 10.0))
def test_the_cost_of_a_token_is_the_slope(cost: float, alone_s: float) -> None:
    """Of the time of a step over the tokens it computes, in times of a step with one."""
    steps = {width: [alone_s * (1 + cost * (width - 1))] for width in (1, 2, 4, 8, 16)}
    assert abs(token_cost(steps) - cost) < 0.001


@given(st.fixed_dictionaries(dict.fromkeys((1, 2, 4, 8, 16), rates)))
def test_a_cost_is_never_absurd(steps: dict[int, list[float]]) -> None:
    """Whatever was measured, the engine can work with it."""
    assert 0.01 <= token_cost(steps) <= 1


def test_the_cost_that_is_assumed_is_one_that_was_measured() -> None:
    """The figures of decision 7."""
    assert abs(token_cost({1: [1.0], 2: [1.16], 8: [2.17], 16: [3.52]}) - TOKEN_COST) < 0.02
