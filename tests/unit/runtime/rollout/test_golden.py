"""The golden transcript: rounding is forgiven, other weights are not."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterator

import pytest
from fakes import ScriptedSession, byte_tokenizer, count_up, with_adapter
from hypothesis import given
from hypothesis import strategies as st
from unit.runtime.fake_engine import TIMEOUT_S
from unit.runtime.rollout.a_device import NearTies, make_engine

from runtime.access.clients import Clients
from runtime.access.limits import LimitBook, Limits
from runtime.engine.engine import Engine
from runtime.errors import SessionError, Unavailable
from runtime.package import Golden
from runtime.rollout.asking import ask
from runtime.rollout.golden import NEAR_TIE_NATS, Replay, replay

PROMPT = [3, 1, 4, 1, 5]


def transcript(tokens: int, *, ties: Container[int] = (), adapter: int = 0) -> Golden:
    """What `count_up` says with its adapter of that place, but for the token after the likeliest at `ties`."""
    history = list(PROMPT)
    for at in range(tokens):
        history.append(with_adapter(count_up(tuple(history)), adapter) + (at in ties))
    return Golden(prompt_ids=PROMPT, greedy_ids=history[len(PROMPT) :])


@pytest.fixture
def running() -> Iterator[list[Engine]]:
    """Engines that are stopped at the end."""
    engines: list[Engine] = []
    yield engines
    for engine in engines:
        engine.stop()


def start(running: list[Engine], session: ScriptedSession) -> Engine:
    engine = make_engine(session)
    engine.start()
    running.append(engine)
    return engine


def test_the_same_tokens_are_the_same(running: list[Engine]) -> None:
    engine = start(running, ScriptedSession(count_up))
    assert replay(engine, transcript(32), patience_s=TIMEOUT_S) == Replay(32, said=32, ties=0)
    assert replay(engine, transcript(32), patience_s=TIMEOUT_S, tokens=1) == Replay(1, said=1, ties=0)


@given(st.sets(st.integers(0, 31)), st.sampled_from([0.5 * NEAR_TIE_NATS, 2.0 * NEAR_TIE_NATS]))
def test_near_ties_cost_a_token_each_and_no_more(at: set[int], behind: float) -> None:
    """Up to a quarter of them; the tokens behind one are those that follow the transcript's. What is no near tie is a
    fault where it stands."""
    engine = make_engine(NearTies(count_up, behind))
    engine.start()
    try:
        done = replay(engine, transcript(32, ties=at), patience_s=TIMEOUT_S)
    finally:
        engine.stop()
    if not at:
        assert done == Replay(32, 32, 0)
    elif behind > NEAR_TIE_NATS:
        assert done.fault.startswith(f"token {min(at) + 1} is ")
        assert (done.said, done.ties) == (min(at), 0)
    elif len(at) <= 8:
        assert done == Replay(32, 32 - len(at), len(at))
    else:
        assert done.fault.startswith("9 of the first ")


def test_a_transcript_that_the_context_has_no_room_for_is_replayed_as_far_as_it_goes(running: list[Engine]) -> None:
    engine = start(running, ScriptedSession(count_up, context_tokens=16))
    assert replay(engine, transcript(32), patience_s=TIMEOUT_S) == Replay(11, said=11, ties=0)
    engine = start(running, ScriptedSession(count_up, context_tokens=4))
    assert replay(engine, transcript(32), patience_s=TIMEOUT_S) == Replay(0, said=0, ties=0)


def test_an_adapters_transcript_is_the_adapters(running: list[Engine]) -> None:
    """The model as it is says other tokens, and those are no near ties of the adapter's."""
    engine = start(running, ScriptedSession(count_up, adapters=("pump",)))
    assert replay(engine, transcript(4, adapter=1), patience_s=TIMEOUT_S, adapter="pump") == Replay(4, 4, 0)
    assert replay(engine, transcript(4), patience_s=TIMEOUT_S, adapter="pump").fault.startswith("token 1 is ")


def test_a_model_that_fails_or_hangs_is_an_error(running: list[Engine]) -> None:
    session = ScriptedSession(count_up)
    engine = start(running, session)
    session.fail_next = "broken"
    with pytest.raises(SessionError, match="broken"):
        ask(engine, PROMPT, 4, patience_s=TIMEOUT_S)
    entered, leave = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        assert leave.wait(TIMEOUT_S)

    session.during_run = hang
    with pytest.raises(SessionError, match="no token came for 0 s"):
        ask(engine, PROMPT, 4, patience_s=0.01)
    assert entered.wait(TIMEOUT_S)
    leave.set()
    session.during_run = lambda: None
    assert len(ask(engine, PROMPT, 4, patience_s=TIMEOUT_S).tokens) == 4


def test_an_engine_that_is_to_leave_is_no_fault_of_the_model(running: list[Engine]) -> None:
    engine = start(running, ScriptedSession(count_up))
    engine.drain()
    with pytest.raises(Unavailable):
        ask(engine, PROMPT, 4, patience_s=TIMEOUT_S)


def test_clients_limits_do_not_hold_for_the_daemon_itself(running: list[Engine]) -> None:
    clients = Clients(LimitBook(Limits(requests_per_minute=1, tokens_per_minute=1)))
    engine = Engine(
        ScriptedSession(count_up),
        byte_tokenizer(),
        eos_token_ids=frozenset(),
        queue_limit=4,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
        clients=clients,
    )
    engine.start()
    running.append(engine)
    for _ in range(3):
        assert len(ask(engine, PROMPT, 4, patience_s=TIMEOUT_S).tokens) == 4
