"""Measuring, on a board whose speed is known and whose clock only computing moves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from fakes import ScriptedSession, count_up
from hypothesis import given
from hypothesis import strategies as st

from runtime.bench.autotune import CONTEXT_TOKENS, Autotuner, Measured, transcript
from runtime.board.tuning import Threads
from runtime.sessions.session import Chunk, Logits


class Board:
    """A model on a board. Seconds of a token, by the number of threads: of a prompt, and of a step's first.

    Args:
        load_s: of loading it.
        token_cost: of a further token in a step.
        rows_at_most: that one step computes at once.
    """

    def __init__(
        self,
        prefill_s: dict[int, float],
        decode_s: dict[int, float],
        *,
        load_s: float = 0.5,
        token_cost: float = 0.2,
        rows_at_most: int = 8,
    ) -> None:
        self.prefill_s, self.decode_s = prefill_s, decode_s
        self.load_s, self.token_cost, self.rows_at_most = load_s, token_cost, rows_at_most
        self.now_s = 100.0
        self.loaded = 0
        self.most_loaded = 0

    def open(self, threads: int, slots: int) -> TimedSession:
        self.now_s += self.load_s
        return TimedSession(self, threads, slots)

    def tune(self, budget_s: float = 1000, shares: list[float] | None = None) -> Measured:
        return Autotuner(
            self.open,
            capacities=[1] * len(self.prefill_s),
            chunk_tokens=64,
            kv_budget_tokens=100_000,
            budget_s=budget_s,
            report=lambda _what, share: (shares if shares is not None else []).append(share),
            clock=lambda: self.now_s,
        ).run()


class TimedSession(ScriptedSession):
    """Takes the board's time for what it computes."""

    def __init__(self, board: Board, threads: int, slots: int) -> None:
        super().__init__(slots=slots, context_tokens=CONTEXT_TOKENS)
        self._board, self._threads = board, threads
        board.loaded += 1
        board.most_loaded = max(board.most_loaded, board.loaded)

    def __del__(self) -> None:
        self._board.loaded -= 1

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        if tokens > 16:
            self._board.now_s += tokens * self._board.prefill_s[self._threads]
        else:
            turns = -(-len(chunks) // self._board.rows_at_most)
            more = tokens - len(chunks)
            self._board.now_s += self._board.decode_s[self._threads] * (turns + more * self._board.token_cost)
        return super().run(chunks, adapter=adapter, deterministic=deterministic)


def pi(**changes: float) -> Board:
    """Prefill gains from four cores, decode from two."""
    return Board({1: 0.05, 2: 0.026, 3: 0.018, 4: 0.0135}, {1: 0.11, 2: 0.07, 3: 0.075, 4: 0.087}, **changes)


def test_what_a_board_does_is_what_is_found() -> None:
    """Its speeds, from which its settings follow."""
    found = pi().tune()
    assert found.threads == Threads(prefill=4, decode=2)
    assert found.common.prefill == found.common.decode
    assert found.slots == 8
    assert found.token_cost == pytest.approx(0.2)
    assert found.in_time
    assert found.prefill[4] == pytest.approx([1 / 0.0135] * len(found.prefill[4]))
    assert found.decode[2] == pytest.approx([1 / 0.07] * len(found.decode[2]))
    assert found.totals[16] == pytest.approx([8 / 0.07] * len(found.totals[16]))


def test_memory_is_that_of_one_session() -> None:
    """The next number of threads is loaded when the last is gone."""
    board = pi()
    board.tune()
    assert board.most_loaded == 1


@given(st.floats(1, 500), st.floats(0, 30), st.floats(0.1, 10))
def test_it_keeps_to_its_time(budget_s: float, load_s: float, slowness: float) -> None:
    """It takes the budget or less, or measured each part but once or so; the share that is told never falls."""
    board, shares = pi(load_s=load_s), []
    for times in (board.prefill_s, board.decode_s):
        times.update({count: slowness * its for count, its in times.items()})
    began_s = board.now_s
    found = board.tune(budget_s, shares)
    rounds = max(len(found.decode[1]), len(found.totals[1]), len(found.steps[1]))
    least_s = 5 * load_s + slowness * 60  # one round of everything, and both loads' warming up
    assert board.now_s - began_s <= max(budget_s, 0) + least_s
    assert found.in_time == (min(len(found.decode[1]), len(found.totals[1]), len(found.steps[1])) >= 3)
    assert 1 <= rounds <= 9
    assert all(0 <= one <= other <= 1 for one, other in pairwise(shares))


def test_a_model_that_says_something_else_is_noticed() -> None:
    """Also if it is one token of all."""
    assert transcript(ScriptedSession()) == transcript(ScriptedSession())
    wrong_once = ScriptedSession(lambda history: 7 if len(history) == 68 else count_up(history))
    assert transcript(ScriptedSession()) != transcript(wrong_once)
