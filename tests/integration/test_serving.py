"""Many clients of one real daemon."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from integration.daemons import Daemon, at_rest, start

from edgeqwen.client import AsyncClient, Client, Completion, Delta, InvalidRequest, Options, QueueFull
from edgeqwen.v1 import telemetry_pb2

pytestmark = pytest.mark.slow

GREEDY = Options(temperature=0.0, max_tokens=16)
BRIEF = Options(temperature=0.0, max_tokens=8)
PROMPTS = [
    "What is the capital of France?",
    "Count from one to ten.",
    "Name the colours of the rainbow, and say for each what it reminds you of. " * 5,
    "Hi",
    "Explain in one sentence why ships float on water although they are made of steel.",
    "Write the word yes.",
    "What do bees make? " * 8,
    "Tell me about the moon.",
]


def without_warm_rows(snapshot: telemetry_pb2.Snapshot) -> int:
    """Resident memory in bytes, less what is kept of earlier prompts."""
    engine = snapshot.models[0].engine
    return snapshot.process.rss_bytes - engine.kv_warm_tokens * engine.kv_bytes_per_token


def resting(daemon: Daemon, client: Client) -> telemetry_pb2.Snapshot:
    """The first snapshot after the embeddings that were looked up have left memory, a moment after the last request."""
    process, deadline_s = psutil.Process(daemon.process.pid), time.monotonic() + 20
    while any(each.rss for each in process.memory_maps() if each.path.endswith("/model.onnx.data")):
        assert time.monotonic() < deadline_s, "the file that weights are in stays resident"
        at_rest(client)
    return at_rest(client)


async def ask(client: AsyncClient, prompt: str, *, options: Options = GREEDY, leave_after: int | None = None) -> str:
    """The answer, or what came of it before leaving."""
    text, deltas = "", 0
    stream = client.generate(messages=[("user", prompt)], options=options)
    async for event in stream:
        if isinstance(event, Delta):
            text += event.text
            deltas += 1
            if deltas == leave_after:
                await stream.aclose()
                break
    return text


def test_eight_at_once_answer_as_one_at_a_time(float_daemon: Daemon) -> None:
    """Greedy text on the float32 package is the same alone, in company, and while any of the others leaves."""

    async def together(leaver: int | None) -> list[str]:
        async with AsyncClient(float_daemon.target) as client:
            calls = [ask(client, p, leave_after=3 if at == leaver else None) for at, p in enumerate(PROMPTS)]
            return await asyncio.gather(*calls)

    with Client(float_daemon.target) as client, asyncio.Runner() as runner:
        alone = [client.chat([("user", prompt)], options=GREEDY).text for prompt in PROMPTS]
        assert len(set(alone)) > 4, "answers that are all alike would prove nothing"
        assert runner.run(together(None)) == alone
        for leaver in range(len(PROMPTS)):
            answers = runner.run(together(leaver))
            assert alone[leaver].startswith(answers[leaver])
            assert answers[:leaver] + answers[leaver + 1 :] == alone[:leaver] + alone[leaver + 1 :]
        at_rest(client)


def test_a_conversation_goes_on_from_its_last_turn(float_daemon: Daemon) -> None:
    """Only what is new of each prompt is computed, and the answers are those of a client that shares nothing."""
    turns = [("user", PROMPTS[2])]
    with Client(float_daemon.target) as client, Client(float_daemon.target, scope=b"") as forgetful:
        for question in ("Which of them is the darkest?", "Why?"):
            before = client.chat(turns, options=GREEDY)
            turns += [("assistant", before.text), ("user", question)]
            after, fresh = (each.chat(turns, options=GREEDY) for each in (client, forgetful))
            assert after.text == fresh.text
            assert fresh.finished.cached_prompt_tokens == 0
            assert after.finished.cached_prompt_tokens >= before.finished.prompt_tokens


def test_a_lone_request_says_the_same_twice(int4_daemon: Daemon) -> None:
    """Greedy or with a seed, also where much of the answer is guessed."""
    prompt = [("user", "Repeat this: the red valve opens first, the blue valve second, and the green valve third.")]
    with Client(int4_daemon.target, scope=b"") as client:
        for options in (Options(temperature=0.0, max_tokens=64), Options(temperature=0.5, seed=3, max_tokens=64)):
            assert len({client.chat(prompt, options=options).token_ids for _ in range(3)}) == 1


def test_two_hundred_requests_later_memory_is_where_it_was(int4_daemon: Daemon) -> None:
    """Requests of all lengths, a quarter of them cancelled: within 5 MB of before, and every slot is free. What clients
    whose turns share leave behind is what the daemon says is warm, and the rest of its last pages."""
    random_numbers = random.Random(7)

    async def wave(size: int, scope: bytes | None = b"") -> None:
        async with AsyncClient(int4_daemon.target, scope=scope) as client:
            leave = [random_numbers.choice([None, None, None, 2]) for _ in range(size)]
            prompts = random_numbers.choices(PROMPTS, k=size)
            calls = zip(prompts, leave, strict=True)
            await asyncio.gather(*(ask(client, prompt, options=BRIEF, leave_after=after) for prompt, after in calls))

    with Client(int4_daemon.target) as client, asyncio.Runner() as runner:
        for _ in range(4):  # every shape has been seen once, so what is kept for reuse is there
            runner.run(wave(8))
        before = resting(int4_daemon, client)
        for _ in range(25):
            runner.run(wave(8))
        after = resting(int4_daemon, client)
        for _ in range(4):
            runner.run(wave(8, scope=None))
        shared = resting(int4_daemon, client)
    assert after.process.rss_bytes - before.process.rss_bytes <= 5e6
    warm = [each.models[0].engine.kv_warm_tokens for each in (before, after, shared)]
    assert warm[0] == warm[1] < warm[2]
    assert without_warm_rows(shared) - without_warm_rows(before) <= 10e6


def test_memory_is_weights_and_little_else(int4_daemon: Daemon) -> None:
    """Resident memory at most the weights, the KV cache and 150 MB."""
    with Client(int4_daemon.target) as client:
        client.chat([("user", PROMPTS[2])], options=GREEDY)
        snapshot = resting(int4_daemon, client)
    assert without_warm_rows(snapshot) <= snapshot.models[0].model.weights_bytes + 150e6


def test_an_idle_daemon_uses_no_processor(int4_daemon: Daemon) -> None:
    """Less than 1 % of a core while nobody asks for anything."""
    process = psutil.Process(int4_daemon.process.pid)
    before = process.cpu_times()
    idle_s = 5.0
    with pytest.raises(subprocess.TimeoutExpired):
        int4_daemon.process.wait(timeout=idle_s)
    after = process.cpu_times()
    assert (after.user + after.system - before.user - before.system) / idle_s < 0.01


def test_a_full_queue_refuses_with_a_time_to_try_again(int4_package: Path) -> None:
    """One slot and one place: of four at once, at least one is told when to come back, and the rest are answered."""

    async def ask_all(target: str) -> list[object]:
        async with AsyncClient(target) as client:
            calls = [client.chat([("user", "Count to a hundred.")], options=Options(max_tokens=64)) for _ in range(4)]
            return await asyncio.gather(*calls, return_exceptions=True)

    with start(int4_package, "--slots", "1", "--queue-limit", "1") as daemon:
        results = asyncio.run(ask_all(daemon.target))
    refused = [result for result in results if isinstance(result, QueueFull)]
    assert 1 <= len(refused) <= 2
    assert all(0 < refusal.retry_after_s <= 60 for refusal in refused)
    assert not [r for r in results if isinstance(r, BaseException) and not isinstance(r, QueueFull)]


def test_answers_have_the_structure_that_is_asked_for(int4_daemon: Daemon) -> None:
    """JSON of a schema, and a regular expression, from several clients at once; forced text costs no step each."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "inhabitants": {"type": "integer"}},
        "required": ["city", "inhabitants"],
        "additionalProperties": False,
    }
    json_options = Options(json_schema=schema, max_tokens=64, temperature=1.0)
    date_options = Options(regex="[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]", max_tokens=32)

    async def ask_all() -> list[Completion]:
        async with AsyncClient(int4_daemon.target) as client:
            calls = [
                client.chat([("user", "Name a city.")], options=options) for options in (json_options, date_options) * 3
            ]
            return await asyncio.gather(*calls)

    answers = asyncio.run(ask_all())
    for answer in answers[0::2]:
        assert answer.finished.reason == "eos"
        assert json.loads(answer.text).keys() == {"city", "inhabitants"}
    for answer in answers[1::2]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", answer.text)
    with Client(int4_daemon.target) as client, pytest.raises(InvalidRequest) as refusal:
        client.chat([("user", "hi")], options=Options(json_schema={"properties": {"a": {"type": "strin"}}}))
    assert refusal.value.violations == (('json_schema["properties"]["a"]', "Invalid type: strin"),)


@pytest.mark.parametrize(
    ("messages", "options", "field", "reason"),
    [
        ([], Options(), "chat.messages", "at least one message"),
        ([("boss", "hi")], Options(), "chat.messages[0].role", "one of system, user, assistant"),
        ([("user", "hi")], Options(max_tokens=1_000_000), "max_tokens", "1 to 4096"),
        ([("user", "hi")], Options(max_tokens=0), "max_tokens", "1 to 4096"),
        ([("user", "word " * 5000)], Options(), "input", "at most 4095 leave room"),
    ],
)
def test_bad_requests_name_the_field_and_the_limit(
    int4_daemon: Daemon, messages: list[tuple[str, str]], options: Options, field: str, reason: str
) -> None:
    """INVALID_ARGUMENT with a violation that says where, and what would do."""
    with Client(int4_daemon.target) as client, pytest.raises(InvalidRequest) as refusal:
        client.chat(messages, options=options)
    [(where, what)] = refusal.value.violations
    assert where == field
    assert reason in what
