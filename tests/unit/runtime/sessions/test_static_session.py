"""One row over graphs of fixed width: whatever the chunks, the row holds the tokens, and padding never shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from fakes import byte_tokenizer, count_up
from hypothesis import given
from hypothesis import strategies as st
from unit.runtime.engine.test_engine import Inbox

from runtime.engine.engine import Engine
from runtime.engine.sequence import Request
from runtime.sessions.session import Chunk, Logits, SessionSpec
from runtime.sessions.static_session import States, StaticSession

WINDOW, CONTEXT, VOCABULARY, PADDING = 4, 24, 251, -1
SINK = 7


class FakePipeline:
    """A `Pipeline` whose cache holds the tokens, padding included, and whose states are what follows each."""

    window_tokens = WINDOW
    sink = SINK
    sink_states = np.array([[count_up((SINK,))]])

    def __init__(self) -> None:
        self.spec = SessionSpec(
            vocab_size=VOCABULARY, context_tokens=CONTEXT, slots=1, kv_bytes_per_token=1, provider="npu"
        )
        self.cache = [SINK] + [PADDING] * (CONTEXT + WINDOW)
        self.widths: list[int] = []

    def states(self, tokens: Sequence[int], start: int) -> States:
        assert 0 < len(tokens) <= WINDOW
        assert start > 0, "the sink is computed again"
        width = 1 if len(tokens) == 1 else WINDOW
        self.widths.append(width)
        self.cache[start : start + width] = [*tokens, *[PADDING] * (width - len(tokens))]
        ends = range(start + 1, start + len(tokens) + 1)
        assert PADDING not in self.cache[: ends[-1]], "padding is looked at"
        return np.array([[count_up(tuple(self.cache[:end]))] for end in ends])

    def logits(self, states: States) -> Logits:
        return np.eye(VOCABULARY, dtype=np.float32)[states[:, 0]]


def told(session: StaticSession, tokens: Sequence[int], start: int, logits: int = 1) -> list[int]:
    """The tokens that follow the last `logits` ones."""
    return [int(row.argmax()) for row in session.run([Chunk(0, tokens, start, logits=logits)])]


def followed_by(text: Sequence[int]) -> int:
    """The token after `text`, which begins with the sink or has it before it."""
    return count_up(tuple(text) if text[0] == SINK else (SINK, *text))


@given(tokens=st.lists(st.integers(0, 9), min_size=1, max_size=CONTEXT), data=st.data())
def test_chunks_of_any_length_give_what_one_gives(tokens: list[int], data: st.DataObject) -> None:
    """However a text is cut, and wherever it is gone back to, every token is followed by what its own text says."""
    expected = [followed_by(tokens[: end + 1]) for end in range(len(tokens))]
    session = StaticSession(FakePipeline())
    at = 0
    for _ in range(8):
        at = data.draw(st.integers(0, at), "from")
        length = data.draw(st.integers(1, len(tokens) - at), "tokens")
        wanted = data.draw(st.integers(0, length), "logits")
        got = told(session, tokens[at : at + length], at, wanted)
        assert got == expected[at + length - wanted : at + length]
        at = min(at + length, len(tokens) - 1)


def test_a_single_token_takes_the_narrow_graph() -> None:
    """And what is left of a chunk that is one longer than a window."""
    pipeline = FakePipeline()
    session = StaticSession(pipeline)
    told(session, [5] * (WINDOW + 1), 0)
    told(session, [6], WINDOW + 1)
    assert pipeline.widths == [WINDOW, 1, 1]


def test_the_last_position_of_the_context_can_be_computed_in_a_window() -> None:
    session = StaticSession(FakePipeline())
    tokens = list(range(CONTEXT))
    told(session, tokens[:-2], 0)
    assert told(session, tokens[-2:], CONTEXT - 2) == [followed_by(tokens)]
    with pytest.raises(AssertionError):
        told(session, [1, 2], CONTEXT - 1)


def test_requests_take_the_row_over_from_each_other() -> None:
    """One after the other, each gets what follows its own prompt, of which the row may hold the beginning already."""
    session = StaticSession(FakePipeline())
    engine = Engine(
        session,
        byte_tokenizer(),
        eos_token_ids=frozenset(),
        queue_limit=8,
        prefill_chunk_tokens=WINDOW,
        kv_budget_tokens=CONTEXT,
        speculate=False,
    )
    prompts = [(1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 9), (SINK, 2, 3), (SINK, 2, 3), (8,), (SINK,), (1, 2, 3)]
    inboxes = [Inbox() for _ in prompts]
    for prompt, inbox in zip(prompts, inboxes, strict=True):
        engine.submit(Request(prompt, max_tokens=6, scope=b"all"), inbox)
    engine.start()
    try:
        for prompt, inbox in zip(prompts, inboxes, strict=True):
            history = list(prompt)
            for _ in range(6):
                history.append(followed_by(history))
            assert inbox.tokens() == history[len(prompt) :]
    finally:
        engine.stop()
