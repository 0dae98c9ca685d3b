"""Guesses from a request's own text, and how many of them a step computes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.speculation import MAX_GUESS, TOKEN_COST, Guesser, choose_widths

tokens = st.lists(st.integers(0, 3) | st.sampled_from([256, 65_536, 2**31 - 1]), max_size=60)


@given(tokens.filter(bool), st.lists(tokens, max_size=4))
def test_a_guess_is_what_followed_the_last_time(prompt: list[int], answers: list[list[int]]) -> None:
    """That of a search token by token, for four tokens, else two; ids whose bytes hold those of others are no trap."""
    guesser, said = Guesser(prompt), list(prompt)
    for answer in answers:
        guesser.accept(answer)
        said += answer
        followed = [
            said[at + len(suffix) : at + len(suffix) + MAX_GUESS]
            for suffix in (said[-4:], said[-2:])
            for at in reversed(range(len(said) - len(suffix)))
            if said[at : at + len(suffix)] == suffix
        ]
        assert list(guesser.guess) == (followed[0] if followed else [])


def test_how_often_guesses_are_right_is_learnt_from_all_of_them() -> None:
    """From what came of a guess, computed or not; a token after a wrong one tells nothing."""
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]
    right, wrong = Guesser(prompt), Guesser(prompt)
    for guesser in (right, wrong):
        guesser.accept([3])
        assert guesser.guess == (4, 5, 6, 7, 8, 1, 2, 3)
    first = sum(right.chances(3))
    right.accept([4, 5])
    wrong.accept([9])
    assert sum(wrong.chances(3)) < first < sum(right.chances(3))
    once = wrong.chances(3)
    wrong.accept([4, 5, 6])  # there was no guess
    assert wrong.chances(3) == once


def guesser_after(right: int, wrong: int) -> Guesser:
    """One that has a guess, after so many that were right, then so many that were wrong."""
    guesser = Guesser([1, 2, 3, 4, 1, 2])
    guesser.accept([3])
    for _ in range(right):
        guesser.accept(guesser.guess)
    for _ in range(wrong):
        guesser.accept([guesser.guess[0] + 1, 1, 2, 3])
    assert guesser.guess
    return guesser


HISTORIES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=3)


@given(HISTORIES, st.integers(0, 3))
def test_the_widths_are_those_that_yield_most_in_their_time(histories: list[tuple[int, int, int]], plain: int) -> None:
    """Of all that there are; and none where guesses promise less than 5 % more."""
    offers = [(guesser_after(right, wrong), useful) for right, wrong, useful in histories]
    tokens = len(offers) + plain

    def rate(widths: tuple[int, ...]) -> float:
        said = tokens + sum(sum(guesser.chances(width)) for (guesser, _), width in zip(offers, widths, strict=True))
        computed = tokens + sum(widths)
        return said / (1 + TOKEN_COST * (computed + (computed % 2 if any(widths) else 0) - 1))

    best = max(itertools.product(*(range(useful + 1) for _, useful in offers)), key=rate)
    chosen = choose_widths(offers, tokens=tokens)
    pays = rate(best) > 1.05 * rate((0,) * len(offers))
    assert rate(tuple(chosen)) == pytest.approx(rate(best) if pays else rate((0,) * len(offers)))


@given(st.integers(1, MAX_GUESS), st.integers(1, 8))
def test_no_width_is_worth_hopeless_guesses_and_all_of_a_sure_one(useful: int, requests: int) -> None:
    """Each request has its own width: those that guess badly pay nothing for one that copies."""
    hopeless, sure = guesser_after(0, 30), guesser_after(60, 0)
    assert choose_widths([(hopeless, useful)] * requests, tokens=requests) == [0] * requests
    assert useful - 1 <= choose_widths([(sure, useful)], tokens=1)[0] <= useful
    pays_nothing, width = choose_widths([(hopeless, useful), (sure, useful)], tokens=2)
    assert useful - 1 <= width <= useful, "all but one that would make the tokens odd"
    assert pays_nothing <= 1, "one at most, to make the tokens even"
