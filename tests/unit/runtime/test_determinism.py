"""Deterministic requests on a model that rounds by how its tokens are computed together: they never notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fakes import ScriptedSession, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.engine import Engine
from runtime.engine.sequence import Delta, Event, Finished, Request, SamplingParams
from runtime.sessions.session import Chunk, Logits

CHUNK = 4


class RoundingSession(ScriptedSession):
    """Its KV, and so what it says, depends on what real kernels were seen to depend on: whether a token is the only one
    of its row, whether a run has several of any row, and whether tokens and logits are in pairs or left over."""

    def __init__(self) -> None:
        super().__init__(context_tokens=400, slots=12)
        self._ways: list[list[tuple[bool, ...]]] = [[] for _ in range(12)]

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        wide = deterministic or any(len(chunk.tokens) > 1 for chunk in chunks)
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        left_over = tokens if tokens % 2 and not wide else None
        number = 0
        for chunk in chunks:
            del self._ways[chunk.slot][chunk.start :]
            for _ in chunk.tokens:
                number += 1
                self._ways[chunk.slot].append((len(chunk.tokens) == 1, wide, number == left_over))
        logits = super().run(chunks, adapter=adapter, deterministic=deterministic)
        if len(logits) % 2 and not deterministic:
            logits[-1] *= 1.01
        return logits

    def copy(self, source: int, target: int, tokens: int) -> None:
        super().copy(source, target, tokens)
        self._ways[target] = self._ways[source][:tokens]

    def clear(self, slot: int, keep: int = 0) -> None:
        super().clear(slot, keep)
        del self._ways[slot][keep:]

    def _logits(self, slot: int) -> np.ndarray:
        held = self.cache[slot]
        seen = hash((tuple(held), tuple(self._ways[slot][: len(held)]))) & 0xFFFF_FFFF
        return np.random.default_rng(seen).normal(size=self.spec.vocab_size).astype(np.float32)


@dataclass
class Asked:
    """A request that a test sends after `after` steps; its prompt is the beginning of a text that all share."""

    prompt: int
    tokens: int
    after: int
    deterministic: bool = False
    cancel_after: int = 1000

    def request(self) -> Request:
        text = tuple((at * 7) % 5 + 1 for at in range(self.prompt))  # repetitive: guesses abound
        sampling = SamplingParams(temperature=0.8, seed=3)
        return Request(text, self.tokens, sampling, scope=b"all", deterministic=self.deterministic, top_logprobs=0)


def run(asked: list[Asked], *, at_once: int = 6, session: RoundingSession | None = None) -> list[list[Event]]:
    engine = Engine(
        session or RoundingSession(),
        byte_tokenizer(),
        eos_token_ids=frozenset(),
        queue_limit=64,
        prefill_chunk_tokens=CHUNK,
        kv_budget_tokens=300,
        max_running=at_once,
    )
    events: list[list[Event]] = [[] for _ in asked]
    running = {}
    for step in range(700):
        for at, each in enumerate(asked):
            if each.after == step:
                running[at] = engine.submit(each.request(), events[at].append)
            if each.after + each.cancel_after == step:
                engine.cancel(running[at])
        engine.step()
    assert engine.idle
    return events


def said(events: list[Event]) -> list[tuple[int, float]]:
    """Tokens with the bits of their probabilities."""
    assert isinstance(events[-1], Finished)
    deltas = [event for event in events if isinstance(event, Delta)]
    return [
        (token, told.logprob) for delta in deltas for token, told in zip(delta.token_ids, delta.logprobs, strict=True)
    ]


OTHERS = st.lists(
    st.builds(
        Asked,
        prompt=st.integers(1, 30),
        tokens=st.integers(1, 20),
        after=st.integers(0, 40),
        deterministic=st.booleans(),
        cancel_after=st.one_of(st.just(1000), st.integers(1, 20)),
    ),
    max_size=8,
)


@given(
    prompt=st.integers(1, 30), tokens=st.integers(1, 20), after=st.integers(0, 40), others=OTHERS, first=st.booleans()
)
@settings(max_examples=150, deadline=None)
def test_a_deterministic_request_never_notices_others(
    prompt: int, tokens: int, after: int, others: list[Asked], first: bool
) -> None:
    """Whoever runs beside it, was there before it, left KV of the same text behind, or leaves; also where one runs at a
    time."""
    alone = Asked(prompt, tokens, 0, deterministic=True)
    among = Asked(prompt, tokens, after, deterministic=True)
    everyone = [among, *others] if first else [*others, among]
    for at_once in (6, 1):
        said_alone = said(run([alone], at_once=at_once)[0])
        assert said(run(everyone, at_once=at_once)[0 if first else -1]) == said_alone


def test_where_one_runs_at_a_time_it_costs_nothing() -> None:
    """It is computed as any other is, guesses included."""
    runs = []
    for deterministic in (False, True):
        session = RoundingSession()
        run([Asked(20, 30, 0, deterministic=deterministic)], at_once=1, session=session)
        runs.append(session.runs)
    assert runs[0] == runs[1] < 35


def test_it_still_starts_from_what_is_exact() -> None:
    """A prompt that was computed from its beginning, not what an answer left, nor all but the last token."""
    prompts = [(19, True), (30, True), (31, True), (31, False), (40, True)]
    asked = [Asked(prompt, 10, 80 * at, deterministic=exact) for at, (prompt, exact) in enumerate(prompts)]
    ends = [events[-1] for events in run(asked)]
    assert [end.usage.cached_prompt_tokens for end in ends if isinstance(end, Finished)] == [0, 19, 29, 30, 31]


def test_the_fake_notices_where_requests_do_not_ask_for_it() -> None:
    """What the others do does change what a plain request says: the test above can fail."""
    alone, among = Asked(18, 10, 0), Asked(18, 10, 3)
    assert said(run([alone])[0]) != said(run([Asked(7, 30, 0), among])[1])
