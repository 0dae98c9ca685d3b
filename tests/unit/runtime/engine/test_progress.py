"""An engine with work that makes no step is told from one that rests, fails, or has nothing to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from fakes import ScriptedSession, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from unit.runtime.engine.test_engine import TIMEOUT_S, Inbox, expected, run_to_rest

from runtime.engine.engine import Engine
from runtime.engine.sequence import Failed, Finished, Request
from runtime.sessions.session import ThreadedSession


class Clock:
    """Monotonic seconds, as the test has them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class ThreadsSession(ScriptedSession):
    """A scripted session whose threads can be lowered; `told` is what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = self.spec.__class__(**{**vars(self.spec), "threads": 4})
        self.told: list[int] = []

    def limit_threads(self, most: int) -> None:
        self.told.append(most)


def make_engine(session: ScriptedSession, clock: Clock) -> Engine:
    return Engine(
        session,
        byte_tokenizer(),
        eos_token_ids=frozenset({0}),
        queue_limit=8,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
        clock=clock,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_step_that_does_not_end_is_a_stall_and_its_end_ends_it(clock: Clock) -> None:
    """Seen from another thread, which does not wait for the step."""
    session = ScriptedSession()
    inside, leave = threading.Event(), threading.Event()

    def hang() -> None:
        inside.set()
        assert leave.wait(TIMEOUT_S)

    session.during_run = hang
    engine = make_engine(session, clock)
    engine.start()
    inbox = Inbox()
    engine.submit(Request((1, 2), 3), inbox)
    assert inside.wait(TIMEOUT_S)
    assert not engine.stalled(30.0)
    clock.now_s += 31
    assert engine.stalled(30.0)
    leave.set()
    inbox.all()
    assert not engine.stalled(30.0)
    engine.stop()


def test_an_idle_engine_never_stalls(clock: Clock) -> None:
    """However long ago the last step was; and work that comes then has its whole time."""
    engine = make_engine(ScriptedSession(), clock)
    clock.now_s += 1e6
    assert not engine.stalled(30.0)
    engine.submit(Request((1,), 1), Inbox())
    assert not engine.stalled(30.0)
    clock.now_s += 31
    assert engine.stalled(30.0)  # its thread was never started
    run_to_rest(engine)
    clock.now_s += 1e6
    assert not engine.stalled(30.0)


def test_failures_in_a_row_are_counted_until_one_works(clock: Clock) -> None:
    """Of steps, on the engine's own thread."""
    session = ScriptedSession()
    engine = make_engine(session, clock)
    engine.start()
    for count in (1, 2):
        session.fail_next = "broken"
        inbox = Inbox()
        engine.submit(Request((1, 2), 3), inbox)
        assert isinstance(inbox.all()[-1], Failed)
        assert engine.failures == engine.stats().failures_in_a_row == count
    inbox = Inbox()
    engine.submit(Request((1, 2), 3), inbox)
    assert isinstance(inbox.all()[-1], Finished)
    assert engine.failures == 0
    engine.stop()


def test_who_waits_for_work_is_told_once_when_it_comes(clock: Clock) -> None:
    """Not for what comes while there is some."""
    engine = make_engine(ScriptedSession(), clock)
    calls: list[int] = []
    engine.when_work_comes(lambda: calls.append(1))
    engine.submit(Request((1,), 2), Inbox())
    engine.submit(Request((1,), 2), Inbox())
    assert len(calls) == 1
    run_to_rest(engine)
    engine.submit(Request((1,), 2), Inbox())
    assert len(calls) == 2


@pytest.fixture
def lowered(clock: Clock) -> Iterator[tuple[Engine, ThreadsSession]]:
    session = ThreadsSession()
    assert isinstance(session, ThreadedSession)
    engine = make_engine(session, clock)
    engine.throttle(engine.levels[2])
    engine.start()
    yield engine, session
    engine.stop()


def test_a_lowered_engine_runs_fewer_rows_on_fewer_threads(lowered: tuple[Engine, ThreadsSession]) -> None:
    """Threads change between steps, once; all requests are answered; and stats say how it is lowered."""
    engine, session = lowered
    rows: list[int] = []
    all_wait = threading.Event()

    def count() -> None:
        assert all_wait.wait(TIMEOUT_S)
        rows.append(engine.stats().running)

    session.during_run = count
    inboxes = [Inbox() for _ in range(4)]
    for inbox in inboxes:
        engine.submit(Request((1, 2, 3), 5), inbox)
    all_wait.set()
    assert all(isinstance(inbox.all()[-1], Finished) for inbox in inboxes)
    assert max(rows) == 2
    assert session.told == [2]
    stats = engine.stats()
    assert stats.throttle is not None
    assert (stats.throttle.level, stats.throttle.rows, stats.throttle.threads) == (2, 2, 2)


def test_a_rest_ends_when_the_engine_stops_or_may_do_more(clock: Clock) -> None:
    """An hour's rest, by the clock that the engine reads, delays neither."""
    session = ScriptedSession()
    engine = make_engine(session, clock)
    engine.throttle(engine.levels[-1])
    steps = threading.Semaphore(0)

    def slow() -> None:
        clock.now_s += 3600
        steps.release()

    session.during_run = slow
    engine.start()
    inbox = Inbox()
    engine.submit(Request((1, 2), 2), inbox)
    assert steps.acquire(timeout=TIMEOUT_S)
    engine.throttle(engine.levels[0])
    assert isinstance(inbox.all()[-1], Finished)
    engine.throttle(engine.levels[-1])
    engine.submit(Request((1, 2), 9), Inbox())
    assert steps.acquire(timeout=TIMEOUT_S)
    engine.stop()


@given(
    prompts=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=8),
    changes=st.lists(st.integers(0, 5), max_size=60),
)
def test_whatever_the_levels_do_every_answer_is_its_own(prompts: list[tuple[int, int]], changes: list[int]) -> None:
    """The tokens are those of an engine left alone, and nobody is admitted above the limit."""
    session = ThreadsSession()
    engine = make_engine(session, Clock())
    asked = [(Request(tuple(range(1, 1 + length)), tokens), Inbox()) for length, tokens in prompts]
    for request, inbox in asked:
        engine.submit(request, inbox)
    running = 0
    for level in changes:
        engine.throttle(engine.levels[level])
        engine.step()
        now = engine.stats().running
        assert now <= max(running, engine.levels[level].rows)
        running = now
    run_to_rest(engine)
    for request, inbox in asked:
        assert inbox.tokens() == expected(request.prompt, request.max_tokens)
