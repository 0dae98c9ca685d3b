"""Loops at the end of an answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolchain.evaluation.loops import MIN_REPEATS, MIN_TOKENS, ends_in_loop

TOKENS = st.lists(st.integers(0, 5), max_size=40)
N_GRAM = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@given(TOKENS, N_GRAM, st.integers(MIN_REPEATS, 9), st.integers(0, 11))
def test_an_n_gram_again_and_again_is_a_loop(before: list[int], n_gram: list[int], times: int, rest: int) -> None:
    """Whatever is before it, wherever in the n-gram the answer was cut, if it is long enough."""
    looping = n_gram * max(times, -(-MIN_TOKENS // len(n_gram)))
    assert ends_in_loop(before + looping + n_gram[:rest])


@given(TOKENS, N_GRAM)
def test_what_comes_after_a_loop_ends_it(before: list[int], n_gram: list[int]) -> None:
    """As many tokens that differ from each other as the loop's shortest is long."""
    assert not ends_in_loop(before + n_gram * 40 + list(range(100, 100 + MIN_TOKENS)))


@given(TOKENS)
def test_a_loop_stays_one_behind_other_text(tokens: list[int]) -> None:
    """Only the end of an answer counts."""
    assert not ends_in_loop(tokens) or ends_in_loop([7, *tokens])


def test_what_is_short_or_comes_three_times_is_none() -> None:
    """A row of dots, the refrain of a song, an empty answer."""
    assert not ends_in_loop([])
    assert not ends_in_loop([1] * (MIN_TOKENS - 1))
    assert ends_in_loop([1] * MIN_TOKENS)
    refrain = list(range(10))
    assert not ends_in_loop(refrain * (MIN_REPEATS - 1))
    assert ends_in_loop(refrain * MIN_REPEATS)
