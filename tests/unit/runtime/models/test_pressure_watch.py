"""The watch over the real engine: what it reads changes what the engine promises."""

from __future__ import annotations

import queue
import threading

import pytest
from fakes import ScriptedSession, byte_tokenizer
from structlog.testing import capture_logs

from runtime.engine.engine import Engine
from runtime.engine.sequence import Delta, Event, Finished, Request
from runtime.models.pressure_watch import PressureWatch
from runtime.pressure import MemoryReading

TIMEOUT_S = 20
SPARE = 32 << 20


def make_engine(session: ScriptedSession | None = None) -> Engine:
    limits = {"queue_limit": 8, "prefill_chunk_tokens": 16, "kv_budget_tokens": 200}
    return Engine(session or ScriptedSession(), byte_tokenizer(), eos_token_ids=frozenset(), **limits)


def test_short_memory_limits_the_engine_and_is_logged_once() -> None:
    """One line when it begins and one when it has gone; of two engines each gets half."""
    engine = make_engine()
    free = iter([1000, 100, 60, *[1000] * 5])
    watch = PressureWatch(engine, read=lambda: MemoryReading(SPARE, 2 * next(free) + 2 * SPARE), sharers=lambda: 2)
    with capture_logs() as lines:
        budgets = []
        for _ in range(8):
            watch.look()
            budgets.append(engine.stats().kv_budget_tokens)
    assert budgets == [200, 100, 60, 60, 60, 60, 60, 200]
    assert [(line["event"], line["kv_budget_tokens"]) for line in lines] == [
        ("memory is short", 100),
        ("memory is back", 200),
    ]


def test_it_looks_while_requests_run_and_ends_with_the_engine() -> None:
    """Idle it reads nothing; a kernel that says nothing limits nothing."""
    session, read, events = ScriptedSession(), threading.Event(), queue.SimpleQueue[Event]()
    engine = make_engine(session)
    session.during_run = lambda: None if read.wait(TIMEOUT_S) else pytest.fail("nobody looked")
    engine.accompany(PressureWatch(engine, read=read.set))
    engine.start()
    assert not read.is_set()
    engine.submit(Request((1, 2, 3), 1), events.put)
    assert isinstance(events.get(timeout=TIMEOUT_S), Delta)
    assert isinstance(events.get(timeout=TIMEOUT_S), Finished)
    engine.stop()
    assert engine.stats().kv_budget_tokens == 200
