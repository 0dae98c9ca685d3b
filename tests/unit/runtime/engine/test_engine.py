"""The engine on a scripted session: whatever happens around a request, its answer is its own."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from fakes import Script, ScriptedSession, byte_tokenizer, count_up, repeat_mostly, with_adapter
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.access.clients import Clients
from runtime.access.limits import LimitBook, Limits
from runtime.engine.engine import Engine
from runtime.engine.sequence import Delta, Event, Failed, Finished, FinishReason, Request, Sequence
from runtime.errors import DeadlineTooShort, QueueFull, RateLimited, RequestError, Unavailable

TIMEOUT_S = 20


class Inbox:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def __call__(self, event: Event) -> None:
        self._events.put(event)

    @property
    def empty(self) -> bool:
        return self._events.empty()

    def next(self) -> Event:
        return self._events.get(timeout=TIMEOUT_S)

    def all(self) -> list[Event]:
        """Everything up to the end of the request."""
        events = [self.next()]
        while isinstance(events[-1], Delta):
            events.append(self.next())
        return events

    def tokens(self) -> list[int]:
        return [token for event in self.all() if isinstance(event, Delta) for token in event.token_ids]


def make_engine(session: ScriptedSession, **changes: Any) -> Engine:
    limits = {"queue_limit": 64, "prefill_chunk_tokens": 8, "kv_budget_tokens": 1000} | changes
    return Engine(session, byte_tokenizer(), eos_token_ids=frozenset({0}), **limits)


@pytest.fixture
def session() -> ScriptedSession:
    return ScriptedSession()


@pytest.fixture
def engine(session: ScriptedSession) -> Iterator[Engine]:
    engine = make_engine(session)
    engine.start()
    yield engine
    engine.stop()


def expected(prompt: tuple[int, ...], max_tokens: int, script: Script = count_up, adapter: int = 0) -> list[int]:
    """What the script says to `prompt`, alone, with its adapter at that place."""
    history = list(prompt)
    for _ in range(max_tokens):
        history.append(with_adapter(script(tuple(history)), adapter))
        if history[-1] == 0:
            break
    return history[len(prompt) :]


def run_to_rest(engine: Engine) -> None:
    """Steps an engine that was not started, until nothing is left to do."""
    while not engine.idle:
        engine.step()
    engine.step()  # clears the last slot


def ask(engine: Engine, request: Request) -> Inbox:
    """What came of `request` on an engine that was not started."""
    inbox = Inbox()
    engine.submit(request, inbox)
    run_to_rest(engine)
    return inbox


def test_an_answer_ends_with_finished_and_counts_its_tokens(engine: Engine) -> None:
    inbox = Inbox()
    engine.submit(Request(prompt=(5, 6, 7), max_tokens=6), inbox)
    *deltas, end = inbox.all()
    assert [t for d in deltas if isinstance(d, Delta) for t in d.token_ids] == expected((5, 6, 7), 6)
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.prompt_tokens, end.usage.completion_tokens) == (FinishReason.LENGTH, 3, 6)
    assert 0 <= end.timings.queue_ms <= end.timings.time_to_first_token_ms <= end.timings.total_ms


def test_a_prompt_starts_from_what_an_earlier_one_left() -> None:
    """The next turn of a conversation computes only what is new; the answer is that of a fresh start."""
    session = ScriptedSession()
    engine = make_engine(session)
    prompt = tuple(range(1, 41))
    answer = tuple(ask(engine, Request(prompt, 5, scope=b"mine")).tokens())
    session.longest_chunk = 0
    *deltas, end = ask(engine, Request((*prompt, *answer, 7), 5, scope=b"mine")).all()
    assert [t for d in deltas if isinstance(d, Delta) for t in d.token_ids] == expected((*prompt, *answer, 7), 5)
    assert isinstance(end, Finished)
    assert end.usage.cached_prompt_tokens == 44
    assert session.longest_chunk == 2
    stats = engine.stats()
    assert (stats.prompt_tokens_total, stats.cached_prompt_tokens_total, stats.kv_warm_tokens) == (42, 44, 50)


def test_what_repeats_is_guessed_and_takes_fewer_steps() -> None:
    """The same answer, whole, to its last token; a step yields one event, with all of its tokens."""
    session = ScriptedSession(repeat_mostly)
    engine = make_engine(session)
    request = Request(tuple(range(30, 50)), 100)
    *deltas, end = ask(engine, request).all()
    assert [t for d in deltas if isinstance(d, Delta) for t in d.token_ids] == expected(
        request.prompt, 100, repeat_mostly
    )
    assert isinstance(end, Finished)
    assert end.usage.completion_tokens == 100 == engine.stats().completion_tokens_total
    assert len(deltas) < 70
    assert 1 < session.most_logits <= 16


def test_who_does_not_want_guesses_gets_none() -> None:
    session = ScriptedSession(repeat_mostly)
    engine = Engine(
        session,
        byte_tokenizer(),
        eos_token_ids=frozenset({0}),
        queue_limit=1,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
        speculate=False,
    )
    assert ask(engine, Request((1, 2, 3), 50)).tokens() == expected((1, 2, 3), 50, repeat_mostly)
    assert session.most_logits == 1
    assert engine.stats().right_guesses_total == 0
    assert session.runs == 50


def test_a_stop_among_guessed_tokens_ends_the_answer_there() -> None:
    """Nothing of what was computed after it is told or kept."""
    session = ScriptedSession(lambda history: history[-5:][0])
    engine = make_engine(session)
    text = byte_tokenizer().decode([5, 6, 7])
    *deltas, end = ask(engine, Request((3, 4, 5, 6, 7) * 3, 60, stop=(text,), scope=b"mine")).all()
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.STOP
    tokens = [t for d in deltas if isinstance(d, Delta) for t in d.token_ids]
    assert tokens == [3, 4, 5, 6, 7]
    assert session.cache[0] == [3, 4, 5, 6, 7] * 3 + tokens[:-1]


@pytest.mark.parametrize("scope", [b"others", None])
def test_nobody_starts_from_the_text_of_others(scope: bytes | None) -> None:
    engine = make_engine(ScriptedSession())
    prompt = tuple(range(1, 41))
    ask(engine, Request(prompt, 5, scope=scope))
    end = ask(engine, Request(prompt, 5, scope=b"mine")).all()[-1]
    assert isinstance(end, Finished)
    assert end.usage.cached_prompt_tokens == 0


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_neighbours_and_cancellations_change_nobody_elses_answer(data: st.DataObject) -> None:
    """Any mix of requests and adapters, arriving and cancelled at any step: each that is left gets its own answer, a
    cancelled one hears nothing more, and at rest the slots hold what the engine says is warm; also where guesses come
    right."""
    script = data.draw(st.sampled_from([count_up, repeat_mostly]))
    session = ScriptedSession(script, slots=data.draw(st.integers(1, 4)), adapters=("one", "two"))
    budget, clients = data.draw(st.integers(44, 200)), Clients()
    engine = make_engine(
        session,
        clients=clients,
        prefill_chunk_tokens=data.draw(st.integers(2, 9)),
        kv_budget_tokens=budget,
        max_running=data.draw(st.integers(1, session.spec.slots)),
    )
    asked = data.draw(
        st.lists(st.tuples(st.lists(st.integers(1, 3), min_size=1, max_size=20), st.integers(1, 24)), max_size=9)
    )
    scopes = st.sampled_from([b"mine", b"others", None])
    running: list[tuple[Request, Inbox, Sequence]] = []
    for prompt, max_tokens in asked:
        adapter = data.draw(st.sampled_from((None, "one", "two")))
        scope, client = data.draw(scopes), data.draw(st.sampled_from("ab"))
        request, inbox = Request(tuple(prompt), max_tokens, scope=scope, adapter=adapter, client=client), Inbox()
        running.append((request, inbox, engine.submit(request, inbox)))
        for _ in range(data.draw(st.integers(0, 4))):
            engine.step()
        if data.draw(st.integers(0, 3)) == 0:
            _, _, sequence = running.pop(data.draw(st.integers(0, len(running) - 1)))
            engine.cancel(sequence)
            engine.cancel(sequence)
    run_to_rest(engine)
    for request, inbox, _ in running:
        place = (None, "one", "two").index(request.adapter)
        assert inbox.tokens() == expected(request.prompt, request.max_tokens, script, place)
    stats = engine.stats()
    assert stats.kv_warm_tokens == sum(map(len, session.cache)) <= budget
    assert (stats.running, stats.queue_depth, stats.kv_reserved_tokens, stats.kv_used_tokens) == (0, 0, 0, 0)
    assert all((its.running, its.waiting) == (0, 0) for its in clients.stats())
    assert sum(its.requests_total for its in clients.stats()) == len(asked)
    assert sum(its.completion_tokens_total for its in clients.stats()) == stats.completion_tokens_total
    assert sum(its.prompt_tokens_total for its in clients.stats()) == stats.prompt_tokens_total


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_in_any_crowd_every_request_is_answered_or_told_why(data: st.DataObject) -> None:
    """Clients that flood, cancel, ask for several answers and have deadlines and limits, before a small queue: whoever
    is let in gets its whole answer, or hears that it was too late or made room, which all do that came together; and at
    rest nobody has anything left."""
    now_s = [0.0]
    session = ScriptedSession(slots=data.draw(st.integers(1, 2)))
    limits = Limits(requests_per_minute=30, tokens_per_minute=500, concurrent_requests=data.draw(st.integers(1, 5)))
    clients = Clients(LimitBook(clients={"limited": limits}), clock=lambda: now_s[0])
    queue_limit = data.draw(st.integers(1, 4))
    engine = make_engine(session, queue_limit=queue_limit, clients=clients, clock=lambda: now_s[0])
    let_in: list[tuple[Request, list[Inbox]]] = []

    def run() -> None:
        now_s[0] += 0.1

    session.during_run = run
    for _ in range(data.draw(st.integers(1, 25))):
        client = data.draw(st.sampled_from(("many", "many", "few", "limited")))
        request = Request(tuple(range(data.draw(st.integers(1, 40)))), data.draw(st.integers(1, 9)), client=client)
        inboxes = [Inbox() for _ in range(data.draw(st.sampled_from((1, 1, 1, 2, 3))))]
        timeout_s = data.draw(st.none() | st.floats(0.01, 5))
        try:
            sequences = engine.submit_all([(request, inbox) for inbox in inboxes], timeout_s=timeout_s)
        except (QueueFull, RateLimited, DeadlineTooShort, RequestError):
            assert all(inbox.empty for inbox in inboxes)
        else:
            if data.draw(st.integers(0, 5)) == 0:
                for sequence in sequences:
                    engine.cancel(sequence)
            else:
                let_in.append((request, inboxes))
        assert engine.stats().queue_depth <= queue_limit + session.spec.slots
        for _ in range(data.draw(st.integers(0, 5))):
            engine.step()
    run_to_rest(engine)
    for request, inboxes in let_in:
        ends: list[Event] = []
        for inbox in inboxes:
            *deltas, end = inbox.all()
            ends.append(end)
            tokens = [token for delta in deltas if isinstance(delta, Delta) for token in delta.token_ids]
            assert tokens == (expected(request.prompt, request.max_tokens) if isinstance(end, Finished) else [])
            assert inbox.empty
        errors = {type(end.error) for end in ends if isinstance(end, Failed)}
        assert errors <= {QueueFull, DeadlineTooShort}
        assert QueueFull not in errors or not any(isinstance(end, Finished) for end in ends)
    stats = engine.stats()
    assert (stats.running, stats.queue_depth, stats.kv_reserved_tokens) == (0, 0, 0)
    assert all((its.running, its.waiting) == (0, 0) for its in clients.stats())


@pytest.mark.parametrize("steps", range(6))
def test_a_cancel_while_the_model_runs_hits_nobody_else(steps: int) -> None:
    """One of three leaves during a run, in prefill or in decode: the others get their answers."""
    session = ScriptedSession()
    engine = make_engine(session)
    prompts = [(7, 8), tuple(range(1, 30)), (9,)]
    inboxes = [Inbox() for _ in prompts]
    sequences = [engine.submit(Request(p, 9), inbox) for p, inbox in zip(prompts, inboxes, strict=True)]
    for _ in range(steps):
        engine.step()
    session.during_run = lambda: engine.cancel(sequences[1])
    run_to_rest(engine)
    assert [inboxes[0].tokens(), inboxes[2].tokens()] == [expected((7, 8), 9), expected((9,), 9)]
    assert session.cache == [[]] * session.spec.slots


def test_a_stop_string_ends_the_answer_before_it(engine: Engine) -> None:
    """The text ends before the stop string; the tokens that spelled it are reported."""
    text = byte_tokenizer().decode(expected((9,), 10))
    inbox = Inbox()
    engine.submit(Request(prompt=(9,), max_tokens=10, stop=(text[4:6],)), inbox)
    *deltas, end = inbox.all()
    assert isinstance(end, Finished)
    assert (end.reason, end.stop) == (FinishReason.STOP, text[4:6])
    assert "".join(d.text for d in deltas if isinstance(d, Delta)) == text[: text.index(text[4:6])]


def test_a_long_prompt_never_takes_more_than_a_chunk_at_once(engine: Engine, session: ScriptedSession) -> None:
    inbox = Inbox()
    engine.submit(Request(prompt=tuple(range(1, 100)), max_tokens=1), inbox)
    assert inbox.tokens() == expected(tuple(range(1, 100)), 1)
    assert session.longest_chunk == 8


def test_more_requests_than_places_are_refused_with_a_time_to_try_again() -> None:
    engine = make_engine(ScriptedSession(slots=1), queue_limit=2)
    for _ in range(3):
        engine.submit(Request((1,), 1), Inbox())
    with pytest.raises(QueueFull, match="2 requests wait") as refusal:
        engine.submit(Request((1,), 1), Inbox())
    assert 0 < refusal.value.retry_after_s <= 60
    assert engine.stats().requests_rejected_total == 1


def test_one_client_never_keeps_another_out() -> None:
    """Its newest request makes room, hears so, and is not computed; all others get their answers."""
    engine = make_engine(ScriptedSession(slots=1), queue_limit=3)
    flood = [Inbox() for _ in range(4)]
    for inbox in flood:
        engine.submit(Request((4,), 5, client="many"), inbox)
    with pytest.raises(QueueFull):
        engine.submit(Request((4,), 5, client="many"), Inbox())
    engine.step()
    few = Inbox()
    engine.submit(Request((9,), 5, client="few"), few)
    gone = flood.pop().next()
    assert isinstance(gone, Failed)
    assert isinstance(gone.error, QueueFull)
    assert gone.message == (
        "the queue is full (3 requests wait) and most in it was this client's, so its newest made room;"
        " try again in 1.0 s"
    )
    run_to_rest(engine)
    assert few.tokens() == expected((9,), 5)
    assert [inbox.tokens() for inbox in flood] == [expected((4,), 5)] * 3
    assert engine.stats().requests_rejected_total == 2


def test_a_client_that_asks_now_and_then_is_served_beside_one_that_floods() -> None:
    """It ends after the one that runs and the next one of its turn, not after all that wait."""
    engine = make_engine(ScriptedSession(slots=1))
    ends: list[str] = []

    def told(name: str, event: Event) -> None:
        if isinstance(event, Finished):
            ends.append(name)

    for _ in range(10):
        engine.submit(Request((4,), 5, client="many"), partial(told, "many"))
    engine.step()
    engine.submit(Request((9,), 5, client="few"), partial(told, "few"))
    run_to_rest(engine)
    assert ends.index("few") == 1


@pytest.mark.parametrize("how", ["finish", "cancel", "fail"])
def test_a_place_among_a_clients_own_is_free_again(how: str) -> None:
    """However its request ends."""
    session = ScriptedSession()
    engine = make_engine(session, clients=Clients(LimitBook(Limits(concurrent_requests=1))))
    sequence = engine.submit(Request((4,), 5), Inbox())
    with pytest.raises(RateLimited, match="1 requests at once"):
        engine.submit(Request((4,), 5), Inbox())
    engine.step()
    if how == "cancel":
        engine.cancel(sequence)
    elif how == "fail":
        session.fail_next = "broken"
        engine.start()
        engine.wait_idle(TIMEOUT_S)
        engine.stop()
        return
    else:
        run_to_rest(engine)
    assert ask(engine, Request((4,), 5)).tokens() == expected((4,), 5)


def test_tokens_are_paid_for_as_they_come() -> None:
    """A client over its rate keeps what runs, and gets nothing new until it has waited."""
    now_s = [0.0]
    clients = Clients(LimitBook(Limits(tokens_per_minute=10)), clock=lambda: now_s[0])
    engine = make_engine(ScriptedSession(), clients=clients, clock=lambda: now_s[0])
    assert ask(engine, Request((4, 5), 14)).tokens() == expected((4, 5), 14)
    with pytest.raises(RateLimited, match="10 tokens a minute") as refusal:
        engine.submit(Request((4, 5), 14), Inbox())
    now_s[0] += refusal.value.retry_after_s
    assert ask(engine, Request((4, 5), 14)).tokens() == expected((4, 5), 14)


def slow_engine(now_s: list[float], **changes: Any) -> Engine:
    """One whose every run takes a second of `now_s`, and which has computed some prompts of 8 tokens a second."""
    session = ScriptedSession(slots=1, context_tokens=1000)

    def run() -> None:
        now_s[0] += 1.0

    session.during_run = run
    engine = make_engine(session, clock=lambda: now_s[0], **changes)
    ask(engine, Request(tuple(range(100)), 1))
    return engine


def test_a_request_that_would_be_too_late_is_refused_at_once() -> None:
    """Where its prompt could not be computed in time at twice the speed; before anything is known, never."""
    fresh = make_engine(ScriptedSession(slots=1), clock=lambda: 0.0)
    fresh.submit(Request((4,) * 200, 5), Inbox(), timeout_s=0.001)
    now_s = [0.0]
    engine = slow_engine(now_s)
    with pytest.raises(DeadlineTooShort, match=r"about 10\.0 s and the deadline is in 4\.5 s"):
        engine.submit(Request((4,) * 80, 5), Inbox(), timeout_s=4.5)
    assert engine.idle
    inbox = Inbox()
    engine.submit(Request((4,) * 80, 5), inbox, timeout_s=5.5)
    run_to_rest(engine)
    assert inbox.tokens() == expected((4,) * 80, 5)


def test_a_request_that_waits_in_vain_is_told_so() -> None:
    """As soon as that is sure, and long before its deadline; those behind it are served sooner."""
    now_s = [0.0]
    engine = slow_engine(now_s)
    first, vain, last = Inbox(), Inbox(), Inbox()
    began_s = now_s[0]
    engine.submit(Request((3,) * 80, 40), first)
    engine.submit(Request((4,) * 80, 5), vain, timeout_s=20.0)
    engine.submit(Request((5,) * 80, 5), last)
    while engine.stats().queue_depth > 1:
        engine.step()
    gone = vain.next()
    assert isinstance(gone, Failed)
    assert isinstance(gone.error, DeadlineTooShort)
    assert now_s[0] <= began_s + 17.0
    run_to_rest(engine)
    assert [first.tokens(), last.tokens()] == [expected((3,) * 80, 40), expected((5,) * 80, 5)]


def test_more_at_once_than_ever_fit_are_refused_for_good(engine: Engine) -> None:
    """None of them is queued; as many as fit are, all of them."""
    most = engine.stats().queue_limit + engine.stats().slots
    asked = [(Request((1,), 1), Inbox())] * (most + 1)
    with pytest.raises(RequestError, match=f"must be at most {most}"):
        engine.submit_all(asked)
    assert engine.idle
    assert len(engine.submit_all(asked[1:])) == most


def test_a_failure_is_told_to_those_it_hits_and_the_next_request_works(
    engine: Engine, session: ScriptedSession
) -> None:
    before, inbox, next_inbox = Inbox(), Inbox(), Inbox()
    engine.submit(Request((1, 2), 3, scope=b"mine"), before)
    assert before.tokens() == expected((1, 2), 3)
    session.fail_next = "out of memory"
    engine.submit(Request((1, 2), 3, scope=b"mine"), inbox)
    assert inbox.next() == Failed("the engine failed: out of memory")
    engine.submit(Request((1, 2), 3, scope=b"mine"), next_inbox)
    *deltas, end = next_inbox.all()
    assert [t for d in deltas if isinstance(d, Delta) for t in d.token_ids] == expected((1, 2), 3)
    assert isinstance(end, Finished)
    assert end.usage.cached_prompt_tokens == 0, "nothing is kept of what a failure may have spoilt"


def test_draining_refuses_new_requests_and_finishes_the_old() -> None:
    engine = make_engine(ScriptedSession())
    inbox = Inbox()
    engine.submit(Request((4,), 5), inbox)
    engine.drain()
    with pytest.raises(Unavailable, match="shutting down"):
        engine.submit(Request((4,), 5), Inbox())
    run_to_rest(engine)
    assert inbox.tokens() == expected((4,), 5)


def test_stopping_tells_those_who_still_wait() -> None:
    engine = make_engine(ScriptedSession())
    inbox = Inbox()
    engine.submit(Request((4,), 5), inbox)
    engine.stop()
    assert isinstance(inbox.next(), Failed)
