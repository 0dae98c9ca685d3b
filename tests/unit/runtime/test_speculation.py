"""Guesses from a request's own text, and how many of them a step computes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.speculation import MAX_GUESS, Guesser, best_width

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
    first = right.expected(3)
    right.accept([4, 5])
    wrong.accept([9])
    assert wrong.expected(3) < first < right.expected(3)
    once = wrong.expected(3)
    wrong.accept([4, 5, 6])  # there was no guess
    assert wrong.expected(3) == once


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


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, MAX_GUESS)), min_size=1, max_size=8),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_a_width_is_within_the_guesses(histories: list[tuple[int, int, int]], plain: int, holes: int) -> None:
    """It is zero where none is likely; of one request whose guesses were always right it is most of them."""
    requests = len(histories) + plain
    offers = [(guesser_after(right, wrong), useful) for right, wrong, useful in histories]
    longest = max(useful for _, useful in offers)
    assert 0 <= best_width(offers, requests=requests, rows=requests + holes) <= longest
    hopeless = [(guesser_after(0, 30), useful) for _, useful in offers]
    assert best_width(hopeless, requests=requests, rows=requests + holes) == 0
    assert best_width([(guesser_after(60, 0), longest)], requests=1, rows=1) == longest
