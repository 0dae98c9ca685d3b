"""Both clients against the real services, on a scripted model."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator

import pytest
from fakes import ScriptedSession, byte_tokenizer, count_up, with_adapter
from serving import MODEL, serving

from edgeqwen.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    Delta,
    Finished,
    InvalidRequest,
    Options,
    QueueFull,
    ServerUnavailable,
    Started,
)
from edgeqwen.requests import build_request

GREEDY = Options(temperature=0.0, max_tokens=20, ignore_eos=True)
TURNS = [("system", "Be brief."), ("user", "Why?")]
FOREVER = Options(temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving(ScriptedSession(context_tokens=4096)) as target:
        yield target


def expected_text(prompt: str, tokens: int) -> str:
    history = byte_tokenizer().encode(prompt)
    start = len(history)
    for _ in range(tokens):
        history.append(count_up(tuple(history)))
    return byte_tokenizer().decode(history[start:])


def wait_until_free(client: Client) -> None:
    """Returns once no slot is taken; fails after ten seconds."""
    deadline_s = time.monotonic() + 10
    while client.snapshot().models[0].engine.running:
        assert time.monotonic() < deadline_s, "the slot was never freed"


def wait_until_running(client: Client, running: int) -> None:
    """Returns once so many slots are taken; fails after ten seconds."""
    deadline_s = time.monotonic() + 10
    while client.snapshot().models[0].engine.running != running:
        assert time.monotonic() < deadline_s, "the engine never took it"


def test_a_stream_is_started_deltas_finished(target: str) -> None:
    """In this order, and the deltas' text is the model's."""
    with Client(target) as client:
        started, *deltas, finished = client.generate(prompt="abc", options=GREEDY)
    assert isinstance(started, Started)
    assert (started.model, started.prompt_tokens) == (MODEL, 3)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert "".join(d.text for d in deltas if isinstance(d, Delta)) == expected_text("abc", 20)
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.completion_tokens) == ("length", 20)


def test_the_asynchronous_client_says_the_same(target: str) -> None:
    """Text, health and figures are those that the other client gets."""

    async def ask() -> tuple[object, str, int]:
        async with AsyncClient(target) as client:
            answer = await client.complete("abc", options=GREEDY)
            health, snapshot = await client.health(), await client.snapshot()
            return answer.text, health, snapshot.models[0].engine.slots

    assert asyncio.run(ask()) == (expected_text("abc", 20), "SERVING", 4)


def test_text_becomes_tokens_and_tokens_text(target: str) -> None:
    """Both clients agree with the prompt's own count, and what is no token is refused with its place."""

    async def ask() -> tuple[tuple[int, ...], int, str]:
        async with AsyncClient(target) as client:
            ids = await client.tokenize(prompt="aé")
            return ids, await client.count_tokens(messages=TURNS), await client.detokenize(ids)

    with Client(target) as client:
        started, *_ = client.generate(messages=TURNS, options=GREEDY)
        assert isinstance(started, Started)
        ids = client.tokenize(prompt="aé")
        assert (len(ids), client.detokenize(ids), client.detokenize([])) == (3, "aé", "")
        assert client.count_tokens(messages=TURNS) == len(client.tokenize(messages=TURNS)) == started.prompt_tokens
        assert asyncio.run(ask()) == (ids, started.prompt_tokens, "aé")
        with pytest.raises(InvalidRequest, match=r"token_ids\[1\]: must be below 256 \(got 256\)"):
            client.detokenize([1, 256])
        with pytest.raises(InvalidRequest, match=r"chat\.messages: must hold at least one"):
            client.tokenize(messages=[])
        with pytest.raises(InvalidRequest, match=r"token_ids\.ids\[0\]: must be 0 to"):
            client.detokenize([-1])
        with pytest.raises(ValueError, match="exactly one of messages and prompt"):
            client.tokenize()


def test_an_answer_is_that_of_the_adapter_that_was_asked_for() -> None:
    """One after the other, each computed for itself; the daemon's list says which there are."""
    with serving(ScriptedSession(adapters=("pumps", "tone"))) as target, Client(target) as client:
        first = {
            adapter: client.complete("abc", options=Options(max_tokens=1, temperature=0, adapter=adapter)).token_ids[0]
            for adapter in (None, "tone", "pumps")
        }
        plain = count_up(tuple(byte_tokenizer().encode("abc")))
        assert first == {None: plain, "tone": with_adapter(plain, 2), "pumps": with_adapter(plain, 1)}
        assert list(client.snapshot().models[0].model.adapters) == ["pumps", "tone"]
        with pytest.raises(InvalidRequest, match="adapter: must be unset or one of those there are: pumps, tone"):
            client.complete("abc", options=Options(adapter="valves"))


def test_logprobs_are_the_models_own(target: str) -> None:
    """One for each token, with the likeliest beside it, whatever a bias or the temperature make of it; none unasked."""
    options = Options(temperature=2.0, max_tokens=6, ignore_eos=True, top_logprobs=3, logit_bias={66: 100.0}, seed=1)
    with Client(target) as client:
        answer = client.complete("abc", options=options)
        plain = client.complete("abc", options=GREEDY)
    best = 10.0 - math.log(math.exp(10.0) + 255)  # the script's token has a logit of 10, the rest have 0
    assert set(answer.token_ids) == {66}
    assert len(answer.logprobs) == 6
    first = answer.logprobs[0]
    assert first.logprob == pytest.approx(best - 10.0, abs=1e-4)
    assert [token for token, _ in first.top] == [plain.token_ids[0], 0, 1]
    assert [logprob for _, logprob in first.top] == pytest.approx([best, best - 10.0, best - 10.0], abs=1e-4)
    assert plain.logprobs == ()


def test_leaving_a_stream_frees_its_slot(target: str) -> None:
    """Closing the iterator is enough."""
    with Client(target) as client:
        events = client.generate(prompt="abc", options=FOREVER)
        assert isinstance(next(events), Started)
        events.close()
        wait_until_free(client)


def test_a_deadline_frees_the_slot_too() -> None:
    """It is an error of its own, and the daemon computes no further."""
    with serving(ScriptedSession(context_tokens=200_000)) as target, Client(target) as client:
        with pytest.raises(DeadlineExceeded):
            list(client.generate(prompt="abc", options=FOREVER, timeout_s=0.2))
        wait_until_free(client)


def test_every_fault_of_a_request_comes_back_with_its_field(target: str) -> None:
    """All at once, sorted by field, each with its reason."""
    bad = Options(temperature=float("nan"), top_p=0.0, min_p=2.0, top_k=1000, repetition_penalty=-1.0, stop=("",) * 2)
    with Client(target) as client, pytest.raises(InvalidRequest) as refusal:
        client.chat([("robot", "hi")], options=bad)
    assert refusal.value.violations == (
        ("chat.messages[0].role", "must be one of system, user, assistant, tool (got 'robot')"),
        ("sampling.min_p", "must be 0 to 1 (got 2)"),
        ("sampling.repetition_penalty", "must be more than 0, up to 10 (got -1)"),
        ("sampling.temperature", "must be 0 to 10 (got nan)"),
        ("sampling.top_k", "must be 0 to 256 (got 1000)"),
        ("sampling.top_p", "must be more than 0, up to 1 (got 0)"),
        ("stop[0]", "must be 1 to 256 bytes (got 0)"),
        ("stop[1]", "must be 1 to 256 bytes (got 0)"),
    )


@pytest.mark.parametrize(
    ("arguments", "violation"),
    [
        ({"token_ids": []}, ("input", "must hold at least one token")),
        ({"token_ids": [1, 999]}, ("token_ids.ids[1]", "must be below 256 (got 999)")),
        ({"prompt": ""}, ("input", "must hold at least one token")),
        ({"prompt": "a" * 5000}, ("input", "has 5000 tokens; at most 4095 leave room for an answer: shorten it")),
        ({"prompt": "a", "options": Options(max_tokens=4096)}, ("max_tokens", None)),
        ({"prompt": "a", "options": Options(stop=("x",) * 17)}, ("stop", "must hold at most 16 strings (got 17)")),
    ],
)
def test_inputs_that_cannot_work_are_refused(
    target: str, arguments: dict[str, object], violation: tuple[str, str | None]
) -> None:
    """One violation, of the field that is wrong."""
    with Client(target) as client, pytest.raises(InvalidRequest) as refusal:
        list(client.generate(**arguments))  # type: ignore[arg-type]
    [(field, reason)] = refusal.value.violations
    assert field == violation[0]
    assert violation[1] in (None, reason)


def test_a_full_queue_says_when_to_come_back() -> None:
    """With one slot and one place to wait the third is refused, with a time of at most a minute."""
    with serving(ScriptedSession(slots=1, context_tokens=200_000), queue_limit=1) as target, Client(target) as client:
        running = [client.generate(prompt="abc", options=FOREVER) for _ in range(2)]
        for events in running:
            next(events)
        with pytest.raises(QueueFull, match="1 requests wait") as refusal:
            next(client.generate(prompt="abc", options=FOREVER))
        assert 0 < refusal.value.retry_after_s <= 60
        for events in running:
            events.close()


def test_an_engine_that_fails_is_an_error_and_not_the_end() -> None:
    """The request that it hit says why, and the next one is answered."""
    session = ScriptedSession()
    session.fail_next = "boom"
    with serving(session) as target, Client(target) as client:
        with pytest.raises(Exception, match="INTERNAL: the engine failed: boom"):
            client.complete("abc", options=GREEDY)
        assert client.complete("abc", options=GREEDY).text == expected_text("abc", 20)


def test_nothing_there_is_said_in_words() -> None:
    """A target where nobody listens is an error of its own that asks the right question."""
    with Client("unix:/nowhere.sock") as client, pytest.raises(ServerUnavailable, match="is edgeqwend running"):
        client.health()


def test_a_request_has_exactly_one_input() -> None:
    """None and two are refused before anything is sent."""
    for arguments in ({}, {"prompt": "a", "token_ids": [1]}):
        with pytest.raises(ValueError, match="exactly one"):
            build_request(**arguments)  # type: ignore[arg-type]
