"""What an engine does with its session, beside running it."""

from __future__ import annotations

import queue
import weakref

from fakes import ScriptedSession
from unit.runtime.engine.test_engine import TIMEOUT_S, Inbox, expected, make_engine

from runtime.engine.sequence import Request


def test_a_session_rests_when_the_last_request_has_ended() -> None:
    """Each time, and not before."""
    rests: queue.SimpleQueue[int] = queue.SimpleQueue()

    class Resting(ScriptedSession):
        def rest(self) -> None:
            rests.put(self.runs)

    session = Resting()
    engine = make_engine(session)
    long, short = Inbox(), Inbox()
    engine.submit(Request((4,), 9), long)
    engine.submit(Request((7,), 3), short)
    engine.start()
    for _ in range(2):
        assert rests.get(timeout=TIMEOUT_S) == session.runs
        assert (len(long.tokens()), rests.empty()) == (9, True)
        engine.submit(Request((4,), 9), long)
    engine.stop()
    assert len(short.tokens()) == 3


def test_an_engine_that_stopped_holds_no_session() -> None:
    """Its memory is free by then, whoever holds the engine: it can be given back. A second stop finds nothing to do."""
    session = ScriptedSession()
    engine, gone = make_engine(session), weakref.ref(session)
    engine.start()
    inbox = Inbox()
    engine.submit(Request((4,), 5), inbox)
    assert inbox.tokens() == expected((4,), 5)
    del session
    assert gone() is not None
    engine.stop()
    assert gone() is None
    engine.stop()
    assert engine.stats().draining
