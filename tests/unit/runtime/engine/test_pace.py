"""How long a first token takes: only what was seen counts, and what is not known is taken for quick."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.pace import ENOUGH, Pace


def pace(alone: float | None = None, beside: float | None = None, held_s: float | None = None) -> Pace:
    """One that has seen enough of so many tokens a second, and of slots that were held for so long."""
    seen = Pace()
    for _ in range(ENOUGH):
        if alone:
            seen.prefilled(0.0, 64 / alone, 64, beside=False)
        if beside:
            seen.prefilled(0.0, 16 / beside, 16, beside=True)
        if held_s:
            seen.released(0.0, held_s)
    return seen


def test_it_says_nothing_before_it_has_seen_enough() -> None:
    seen = Pace()
    for _ in range(ENOUGH):
        assert seen.first_token_s(0.0, 1000, tokens_ahead=1000, endings=9, slots=1) is None
        seen.released(0.0, 60.0)
    for _ in range(ENOUGH - 1):
        seen.prefilled(0.0, 1.0, 64, beside=False)
        assert seen.first_token_s(0.0, 1000, tokens_ahead=0, endings=0, slots=1) is None
    seen.prefilled(0.0, 1.0, 64, beside=False)
    assert seen.first_token_s(0.0, 1000, tokens_ahead=0, endings=0, slots=1) == pytest.approx(1000 / 64)


def test_an_idle_board_takes_as_long_as_the_prompt_alone() -> None:
    """Also where most was seen beside others."""
    assert pace(alone=100, beside=20).first_token_s(0.0, 500, tokens_ahead=0, endings=0, slots=4) == pytest.approx(5.0)


def test_what_is_ahead_comes_before() -> None:
    assert pace(alone=100).first_token_s(0.0, 500, tokens_ahead=1500, endings=0, slots=4) == pytest.approx(20.0)


def test_behind_a_full_board_prompts_go_beside_rows_that_decode() -> None:
    """While slots are awaited, as slowly as beside others; its own prompt, perhaps alone."""
    seen = pace(alone=100, beside=20)
    assert seen.first_token_s(0.0, 500, tokens_ahead=100, endings=1, slots=4) == pytest.approx(5.0 + 5.0)


def test_whoever_waits_for_slots_waits_for_others_to_end() -> None:
    """Slots become free one after the other, each held for as long as lately; prompts are computed meanwhile."""
    seen = pace(alone=100, held_s=8.0)
    assert seen.first_token_s(0.0, 100, tokens_ahead=100, endings=3, slots=4) == pytest.approx(6.0 + 1.0)
    assert seen.first_token_s(0.0, 100, tokens_ahead=900, endings=3, slots=4) == pytest.approx(9.0 + 1.0)


def test_what_was_lately_counts_most() -> None:
    """A board that has become hot, or cool again, is known to be after some steps."""
    seen = pace(alone=100)
    for _ in range(40):
        seen.prefilled(0.0, 64 / 50, 64, beside=False)
    assert seen.first_token_s(0.0, 100, tokens_ahead=0, endings=0, slots=1) == pytest.approx(2.0, rel=0.02)


@given(
    st.floats(1, 1e4),
    st.integers(1, 10_000),
    st.lists(st.integers(1, 10_000), max_size=20),
    st.integers(0, 30),
)
def test_more_ahead_never_takes_less(speed: float, tokens: int, ahead: list[int], endings: int) -> None:
    """At a steady speed it is never more than the work takes, plus the wait for slots."""
    seen = pace(alone=speed, held_s=2.0)
    before = 0.0
    for at in range(len(ahead) + 1):
        total = seen.first_token_s(0.0, tokens, tokens_ahead=sum(ahead[:at]), endings=endings, slots=2)
        assert total is not None
        assert before <= total
        assert total <= (tokens + sum(ahead[:at])) / speed * 1.0001 + endings
        before = total


def test_what_is_a_minute_old_counts_no_more() -> None:
    """A board that refused everything while it was slow would never find out that it is quick again."""
    seen = pace(alone=10, beside=10, held_s=9.0)
    assert seen.first_token_s(60.0, 100, tokens_ahead=0, endings=0, slots=1) == pytest.approx(10.0)
    assert seen.first_token_s(60.1, 100, tokens_ahead=0, endings=0, slots=1) is None
    for _ in range(ENOUGH):
        assert seen.first_token_s(70.0, 100, tokens_ahead=0, endings=0, slots=1) is None
        seen.prefilled(70.0, 1.0, 100, beside=False)
    assert seen.first_token_s(70.0, 100, tokens_ahead=0, endings=5, slots=1) == pytest.approx(1.0)
