"""Generation over gRPC: what the engine says reaches the client, and what the client does reaches the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
import structlog
from fakes import ScriptedSession, count_up
from google.rpc import error_details_pb2, status_pb2
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY
from unit.runtime.fake_engine import FakeEngine, byte_tokenizer, finished, only_model, serving

from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import generation_pb2_grpc
from runtime.api import replies
from runtime.api.generator import Generator
from runtime.api.open_calls import OpenCalls
from runtime.api.service import GenerationService
from runtime.engine.engine import Engine
from runtime.engine.live import Sink
from runtime.engine.sequence import Delta, Failed
from runtime.errors import (
    DeadlineTooShort,
    EdgeQwenError,
    Exhausted,
    QueueFull,
    RateLimited,
    SessionError,
    Unavailable,
)

ASK = pb.GenerateRequest(prompt="abc", max_tokens=150)
Call = grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]


@asynccontextmanager
async def generation(engine: FakeEngine | Engine) -> AsyncIterator[grpc.aio.Channel]:
    models = only_model(engine)
    service = GenerationService(models, Generator(models), OpenCalls())
    async with serving(lambda server: generation_pb2_grpc.add_GenerationServicer_to_server(service, server)) as channel:
        yield channel


def ask(channel: grpc.aio.Channel, request: pb.GenerateRequest = ASK, *, timeout_s: float | None = None) -> Call:
    call: Call = generation_pb2_grpc.GenerationStub(channel).Generate(request, timeout=timeout_s)
    return call


async def begun(channel: grpc.aio.Channel, engine: FakeEngine) -> tuple[Call, Sink]:
    """A call whose Started has arrived, and where its events go."""
    call = ask(channel)
    _, sink = await engine.submitted.get()
    assert (await call.read()).started.prompt_tokens == 3
    return call, sink


async def rest(call: Call) -> list[pb.GenerateResponse]:
    """What a call that was read from still gets."""
    events: list[pb.GenerateResponse] = []
    while isinstance(event := await call.read(), pb.GenerateResponse):
        events.append(event)
    return events


async def refusal(channel: grpc.aio.Channel, request: pb.GenerateRequest) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        [event async for event in ask(channel, request)]
    return error.value


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    details = dict(error.trailing_metadata())[GRPC_DETAILS_METADATA_KEY]
    return status_pb2.Status.FromString(details)


async def test_a_stream_is_started_then_deltas_then_finished() -> None:
    """Through the real engine: its tokens, their text, its counts."""
    history = [100, 101, 102]
    for _ in range(10):
        history.append(count_up(tuple(history)))
    engine = Engine(
        ScriptedSession(),
        byte_tokenizer(),
        eos_token_ids=frozenset(),
        queue_limit=4,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
    )
    try:
        async with generation(engine) as channel:
            asked = pb.GenerateRequest(token_ids=pb.TokenIds(ids=history[:3]), max_tokens=10)
            started, *deltas, end = [event async for event in ask(channel, asked)]
    finally:
        engine.stop()
    assert (started.started.model, started.started.prompt_tokens) == ("tiny", 3)
    assert [token for event in deltas for token in event.delta.token_ids] == history[3:]
    assert "".join(event.delta.text for event in deltas) == byte_tokenizer().decode(history[3:])
    assert end.finished.reason == pb.Finished.REASON_LENGTH
    assert end.finished.usage == pb.Usage(prompt_tokens=3, completion_tokens=10)
    assert not end.finished.HasField("stop")
    assert end.finished.timings.total_ms >= end.finished.timings.time_to_first_token_ms > 0


async def test_deltas_that_wait_become_one_message() -> None:
    """Nothing is lost and the order stays; the end is a message of its own."""
    engine = FakeEngine()
    async with generation(engine) as channel:
        call, sink = await begun(channel, engine)
        for token in range(5):
            sink(Delta(f"{token} ", (token,)))
        sink(finished(5))
        delta, end = await call.read(), await call.read()
    assert delta.delta == pb.Delta(text="0 1 2 3 4 ", token_ids=range(5))
    assert end.finished.usage.completion_tokens == 5


async def test_a_client_that_does_not_read_gets_all_of_it_when_it_does() -> None:
    """More than the transport holds back: what waits is merged, and every character arrives once, in order."""
    engine = FakeEngine()
    pieces, piece = 20_000, "0123456789" * 50 + "\n"
    async with generation(engine) as channel:
        call, sink = await begun(channel, engine)
        for at in range(pieces):
            sink(Delta(piece, (at,)))
            if at % 100 == 0:
                await asyncio.sleep(0)
        sink(finished(pieces))
        events = await rest(call)
    tokens = [token for event in events for token in event.delta.token_ids]
    assert tokens == list(range(pieces))
    assert "".join(event.delta.text for event in events) == piece * pieces
    assert len(events) < pieces / 100
    assert max(event.ByteSize() for event in events) < 1 << 20


@pytest.mark.parametrize("how", ["cancel", "disconnect", "deadline"])
@pytest.mark.parametrize("where", ["before any token", "between tokens", "while it does not read"])
async def test_a_client_that_leaves_frees_its_request(how: str, where: str) -> None:
    """However it leaves and wherever the request is, the engine is told at once, and once."""
    engine = FakeEngine()
    async with generation(engine) as channel:
        call = ask(channel, timeout_s=0.5 if how == "deadline" else None)
        sequence, sink = await engine.submitted.get()
        await call.read()
        if where != "before any token":
            sink(Delta("x", (1,)))
            await call.read()
        if where == "while it does not read":
            sink(Delta("x" * 16_000_000, (2,)))  # more than the transport takes: the service waits to send
            await asyncio.sleep(0)
        if how == "cancel":
            call.cancel()
        elif how == "disconnect":
            await channel.close()
        assert await engine.cancelled.get() is sequence
    assert engine.cancelled.empty()


async def test_a_request_that_ended_is_not_cancelled() -> None:
    """The engine hears of a cancellation only while the request is its own."""
    engine = FakeEngine()
    async with generation(engine) as channel:
        call, sink = await begun(channel, engine)
        sink(Delta("x", (1,)))
        sink(finished())
        assert [event.WhichOneof("event") for event in await rest(call)] == ["delta", "finished"]
    assert engine.cancelled.empty()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("leaving"), grpc.StatusCode.UNAVAILABLE),
        (QueueFull(3, 1.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (RateLimited("a", "tokens_per_minute", 9, 1.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (DeadlineTooShort(9.0, 1.0), grpc.StatusCode.DEADLINE_EXCEEDED),
        (SessionError("broken"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_what_the_engine_refuses_gets_its_code(error: EdgeQwenError, code: grpc.StatusCode) -> None:
    """One table; the message is the error's own."""
    async with generation(FakeEngine(refuse=error)) as channel:
        refused = await refusal(channel, ASK)
    assert (refused.code(), refused.details()) == (code, str(error))


@pytest.mark.parametrize(
    ("error", "reason", "quota"),
    [
        (QueueFull(3, 1.5, "panel"), "QUEUE_FULL", "queue_limit: 3 requests of all clients may wait"),
        (
            RateLimited("panel", "requests_per_minute", 9, 1.5),
            "RATE_LIMITED",
            "requests_per_minute: 9 requests a minute",
        ),
    ],
)
async def test_who_has_to_wait_hears_how_long_and_why(error: Exhausted, reason: str, quota: str) -> None:
    """As google.rpc.RetryInfo, QuotaFailure and ErrorInfo."""
    async with generation(FakeEngine(refuse=error)) as channel:
        refused = await refusal(channel, ASK)
    retry, failure, info = (
        error_details_pb2.RetryInfo(),
        error_details_pb2.QuotaFailure(),
        error_details_pb2.ErrorInfo(),
    )
    details = status_of(refused).details
    assert [detail.Unpack(it) for detail, it in zip(details, (retry, failure, info), strict=True)] == [True] * 3
    assert retry.retry_delay.ToMilliseconds() == 1500
    assert [(each.subject, each.description) for each in failure.violations] == [("client:panel", quota)]
    assert (info.reason, info.domain) == (reason, "edgeqwen")


async def test_the_engine_knows_how_long_the_client_waits() -> None:
    """The deadline of the call, and None where it has none."""
    engine = FakeEngine()
    async with generation(engine) as channel:
        for timeout_s in (30.0, None):
            call = ask(channel, timeout_s=timeout_s)
            await engine.submitted.get()
            call.cancel()
    first, second = engine.timeouts_s
    assert first is not None
    assert 0 < first < 31  # gRPC rounds it up on its way
    assert second is None


async def test_a_bad_request_names_every_field() -> None:
    """INVALID_ARGUMENT with google.rpc.BadRequest, and the same in the message."""
    async with generation(FakeEngine()) as channel:
        refused = await refusal(channel, pb.GenerateRequest(max_tokens=0))
    bad = error_details_pb2.BadRequest()
    assert [detail.Unpack(bad) for detail in status_of(refused).details] == [True]
    assert [violation.field for violation in bad.field_violations] == ["input", "max_tokens"]
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.details() == "; ".join(f"{v.field}: {v.description}" for v in bad.field_violations)


async def test_any_number_of_faults_fits_into_a_reply() -> None:
    """gRPC drops a reply whose metadata is over 8 KiB: the first faults are named, the others counted."""
    turns = [pb.Message(role="ü" * 1000, content="x") for _ in range(1000)]
    async with generation(FakeEngine()) as channel:
        refused = await refusal(channel, pb.GenerateRequest(chat=pb.Chat(messages=turns)))
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "chat.messages[0].role: must be one of system, user, assistant" in refused.details()
    assert refused.details().endswith("and 992 more faults")


@pytest.mark.parametrize("why", [QueueFull(3, 1.5, "panel", gave_way=True), DeadlineTooShort(9.0, 1.0)])
async def test_who_must_leave_the_queue_hears_why(why: EdgeQwenError) -> None:
    """After Started, with the status that it would have had before."""
    engine = FakeEngine()
    async with generation(engine) as channel:
        call, sink = await begun(channel, engine)
        sink(Failed(str(why), why))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
    assert error.value.details() == str(why)
    assert status_of(error.value) == replies.status_of(why)
    assert engine.cancelled.empty()


@pytest.mark.parametrize(("draining", "code"), [(False, grpc.StatusCode.INTERNAL), (True, grpc.StatusCode.UNAVAILABLE)])
async def test_a_failure_ends_the_stream_with_its_reason(draining: bool, code: grpc.StatusCode) -> None:
    """What came before it arrives; a daemon that leaves says that another may answer."""
    engine = FakeEngine(draining=draining)
    async with generation(engine) as channel:
        call, sink = await begun(channel, engine)
        sink(Delta("x", (1,)))
        sink(Failed("the model broke"))
        assert (await call.read()).delta.text == "x"
        with pytest.raises(grpc.aio.AioRpcError, match="the model broke") as error:
            await call.read()
    assert error.value.code() is code
    assert engine.cancelled.empty()


async def test_the_log_follows_a_request_and_holds_none_of_its_text() -> None:
    """One line at its start and one at its end, with the id that the client has."""
    engine = FakeEngine()
    with structlog.testing.capture_logs() as lines:
        async with generation(engine) as channel:
            call = ask(channel, pb.GenerateRequest(prompt="secret", stop=["hidden"]))
            _, sink = await engine.submitted.get()
            request_id = (await call.read()).started.request_id
            sink(Delta("private", (1,)))
            sink(finished())
            assert len(await rest(call)) == 2
            await refusal(channel, pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role="secret")])))
    assert [(line["event"], line.get("request_id")) for line in lines] == [
        ("started", request_id),
        ("finished", request_id),
        ("refused", None),
    ]
    assert not any(word in str(lines) for word in ("secret", "hidden", "private"))


async def test_a_structure_that_no_answer_fits_is_the_requests_fault() -> None:
    """INVALID_ARGUMENT with its field, alone and in a batch; nothing of the answer or the grammar's state in it."""
    engine = Engine(
        ScriptedSession(),
        byte_tokenizer(),
        eos_token_ids=frozenset({0}),
        queue_limit=4,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
    )
    asked = pb.GenerateRequest(prompt="abc", max_tokens=4, grammar="start: start")
    try:
        async with generation(engine) as channel:
            error = await refusal(channel, asked)
            stub = generation_pb2_grpc.GenerationStub(channel)
            [reply] = [each async for each in stub.GenerateBatch(pb.GenerateBatchRequest(requests=[asked]))]
    finally:
        engine.stop()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert status_of(error).details[0].Unpack(bad)
    [violation] = bad.field_violations
    assert violation.field == "structure"
    assert violation.description.startswith("no answer can be held to it any further: ")
    assert "<state>" not in violation.description
    assert (reply.failure.code, f"structure: {reply.failure.message}") == (3, error.details())
