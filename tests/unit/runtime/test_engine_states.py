"""Any sequence of what can happen to an engine: answers stay right, and so does the accounting of its memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from fakes import ScriptedSession, byte_tokenizer, count_up
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.engine.engine import Engine
from runtime.engine.sequence import Delta, Event, Failed, Finished, Request, Sequence
from runtime.errors import QueueFull, SessionError

SLOTS, MAX_RUNNING, QUEUE_LIMIT, BUDGET = 4, 3, 5, 70
SCOPES = (None, b"mine", b"others")


def answer(prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    """What the script says to `prompt`."""
    history = list(prompt)
    for _ in range(max_tokens):
        history.append(count_up(tuple(history)))
        if history[-1] == 0:
            break
    return history[len(prompt) :]


@dataclass(eq=False)
class Asked:
    """A request, and what came of it."""

    request: Request
    events: list[Event] = field(default_factory=list)
    sequence: Sequence | None = None
    cancelled: bool = False

    @property
    def ended(self) -> bool:
        return self.cancelled or (bool(self.events) and not isinstance(self.events[-1], Delta))


class EngineStates(RuleBasedStateMachine):
    """The real engine, stepped by hand, on a session that refuses what a real cache could not do."""

    def __init__(self) -> None:
        super().__init__()
        self.session = ScriptedSession(slots=SLOTS, context_tokens=BUDGET)
        self.engine = Engine(
            self.session,
            byte_tokenizer(),
            eos_token_ids=frozenset({0}),
            queue_limit=QUEUE_LIMIT,
            prefill_chunk_tokens=4,
            kv_budget_tokens=BUDGET,
            max_running=MAX_RUNNING,
            speculate=False,  # a guess takes room in a row until the next run
        )
        self.live: list[Asked] = []
        self.checked = 0

    @rule(
        prompt=st.lists(st.integers(1, 2), min_size=1, max_size=20).map(tuple),
        max_tokens=st.integers(1, 30),
        scope=st.sampled_from(SCOPES),
        deterministic=st.booleans(),
        count=st.integers(1, 3),
    )
    def submit(
        self, prompt: tuple[int, ...], max_tokens: int, scope: bytes | None, deterministic: bool, count: int
    ) -> None:
        request = Request(prompt, max_tokens, scope=scope, deterministic=deterministic)
        asked = [Asked(request) for _ in range(count)]
        try:
            sequences = self.engine.submit_all([(request, each.events.append) for each in asked])
        except QueueFull:
            self.refused_rightly(count)
            return
        for each, sequence in zip(asked, sequences, strict=True):
            each.sequence = sequence
        self.live += asked

    def refused_rightly(self, count: int) -> None:
        stats = self.engine.stats()
        assert stats.queue_depth + count > QUEUE_LIMIT + MAX_RUNNING - stats.running

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        asked = self.live[data.draw(st.integers(0, len(self.live) - 1))]
        assert asked.sequence is not None
        self.engine.cancel(asked.sequence)
        self.engine.cancel(asked.sequence)
        asked.cancelled = True

    @rule(times=st.integers(1, 8))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.engine.step()
            self.check_rows()

    @precondition(lambda self: self.engine.stats().running)
    @rule()
    def fail(self) -> None:
        """The model fails in the middle of a step; all hear of it, and nothing is kept."""
        self.session.fail_next = "no more"
        try:
            self.engine.step()
        except SessionError as error:
            self.engine._fail_all(str(error))
            assert all(each.ended for each in self.live)
            stats = self.engine.stats()
            assert (stats.running, stats.queue_depth, stats.kv_reserved_tokens, stats.kv_warm_tokens) == (0, 0, 0, 0)
        self.session.fail_next = None

    @rule(tokens=st.none() | st.integers(0, BUDGET + 10))
    def limit_kv(self, tokens: int | None) -> None:
        """Nobody who runs loses anything."""
        before = self.engine.stats()
        self.engine.limit_kv(tokens)
        after = self.engine.stats()
        assert (before.running, before.kv_reserved_tokens) == (after.running, after.kv_reserved_tokens)
        assert after.kv_budget_tokens == (BUDGET if tokens is None else min(tokens, BUDGET))

    @invariant()
    def promises_are_kept(self) -> None:
        stats = self.engine.stats()
        assert stats.running <= MAX_RUNNING
        assert stats.queue_depth <= QUEUE_LIMIT + MAX_RUNNING
        assert stats.kv_used_tokens <= stats.kv_reserved_tokens <= BUDGET
        assert not stats.kv_warm_tokens or stats.kv_reserved_tokens + stats.kv_warm_tokens <= stats.kv_budget_tokens
        self.live = [each for each in self.live if not self.take(each)]
        assert stats.queue_depth + stats.running == len(self.live)

    def take(self, asked: Asked) -> bool:
        """Checks the answer of a request, whole or as far as it is; whether it has ended."""
        said = [token for event in asked.events if isinstance(event, Delta) for token in event.token_ids]
        whole = answer(asked.request.prompt, asked.request.max_tokens)
        ends = [event for event in asked.events if isinstance(event, Finished | Failed)]
        assert len(ends) <= 1
        assert said == whole if ends and isinstance(ends[0], Finished) else said == whole[: len(said)]
        return asked.ended

    def check_rows(self) -> None:
        """What is in memory is what the ledger says; a step that has just run may have rows yet to clear."""
        stats = self.engine.stats()
        held = sum(map(len, self.session.cache))
        assert held >= stats.kv_used_tokens + stats.kv_warm_tokens
        if not self.engine._scheduler.kv.has_clears:
            assert held == stats.kv_used_tokens + stats.kv_warm_tokens

    def teardown(self) -> None:
        """Whatever happened: in the end all are answered, under any limit, and no row is lost."""
        for _ in range(2000):
            if self.engine.idle:
                break
            self.engine.step()
        assert all(self.take(each) for each in self.live)
        self.engine.limit_kv(0)
        self.engine.step()
        assert not any(self.session.cache)
        self.engine.stop()


TestEngineStates = EngineStates.TestCase
TestEngineStates.settings = settings(max_examples=200, stateful_step_count=40)
