"""Each call that gets an error is counted once, wherever it was refused and whoever refused it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from fakes import ScriptedSession
from serving import make_entrance
from serving import serving as serving_all
from unit.runtime.fake_engine import FakeEngine, finished, only_model, serving

from edgeqwen.client import Client, InvalidRequest, NotFound, Options, PermissionDenied, RateLimited
from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import generation_pb2_grpc
from runtime.access.call_errors import OTHER, CallErrors
from runtime.access.gate import Gate
from runtime.access.limits import LimitBook, Limits
from runtime.access.methods import NEEDS, Need
from runtime.access.rules import USUAL_ROLES, Rules
from runtime.api.generator import Generator
from runtime.api.open_calls import OpenCalls
from runtime.api.replies import abort
from runtime.api.service import GenerationService
from runtime.engine.sequence import Failed
from runtime.errors import DeadlineTooShort, EdgeQwenError, QueueFull, Unavailable

GENERATE, BATCH, TOKENIZE = (f"/edgeqwen.v1.Generation/{name}" for name in ("Generate", "GenerateBatch", "Tokenize"))
ANYONE: Mapping[str, Need] = dict.fromkeys(NEEDS, "anyone")


@asynccontextmanager
async def counting(
    engine: FakeEngine, needs: Mapping[str, Need] = ANYONE
) -> AsyncIterator[tuple[grpc.aio.Channel, CallErrors]]:
    """A channel to what generates, behind a gate that knows nobody."""
    errors, models = CallErrors(), only_model(engine)
    service = GenerationService(models, Generator(models), OpenCalls(), errors)
    gate = Gate(Rules({}, {}, 0, needs), abort, lambda _: None, errors)

    def add(server: grpc.aio.Server) -> None:
        generation_pb2_grpc.add_GenerationServicer_to_server(service, server)

    async with serving(add, interceptors=[gate]) as channel:
        yield channel, errors


async def refusal(channel: grpc.aio.Channel, request: pb.GenerateRequest) -> str:
    """The name of the status that a request ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in generation_pb2_grpc.GenerationStub(channel).Generate(request):
            pass
    return refused.value.code().name


async def counted(errors: CallErrors, totals: Mapping[tuple[str, str], int]) -> None:
    """Waits for them: a caller may hear of an error before it is counted."""
    while errors.totals() != totals:
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "refuse", [QueueFull(1, 1.0), DeadlineTooShort(2.0, 1.0), Unavailable("it drains"), EdgeQwenError("it broke")]
)
async def test_what_an_engine_refuses(refuse: EdgeQwenError) -> None:
    """A daemon that drains among it: the status that the caller sees is the one that is counted."""
    async with counting(FakeEngine(refuse=refuse)) as (channel, errors):
        codes = [await refusal(channel, pb.GenerateRequest(prompt="a")) for _ in range(2)]
        await counted(errors, {(GENERATE, codes[0]): 2})


async def test_what_never_comes_to_an_engine() -> None:
    """Callers whom nobody knows, and requests that can never work."""
    async with counting(FakeEngine(), NEEDS) as (channel, errors):
        assert await refusal(channel, pb.GenerateRequest(prompt="a")) == "UNAUTHENTICATED"
        await counted(errors, {(GENERATE, "UNAUTHENTICATED"): 1})
    async with counting(FakeEngine()) as (channel, errors):
        assert await refusal(channel, pb.GenerateRequest(prompt="a", model="other")) == "NOT_FOUND"
        assert await refusal(channel, pb.GenerateRequest()) == "INVALID_ARGUMENT"
        await counted(errors, {(GENERATE, "INVALID_ARGUMENT"): 1, (GENERATE, "NOT_FOUND"): 1})


async def test_what_fails_in_the_middle() -> None:
    """A stream that has begun ends with an error, too."""
    engine = FakeEngine()
    async with counting(engine) as (channel, errors):
        ended = asyncio.create_task(refusal(channel, pb.GenerateRequest(prompt="a")))
        _, sink = await engine.submitted.get()
        sink(Failed("the engine failed"))
        assert await ended == "INTERNAL"
        await counted(errors, {(GENERATE, "INTERNAL"): 1})


async def test_who_is_answered_and_who_leaves_count_nothing() -> None:
    engine = FakeEngine()
    async with counting(engine) as (channel, errors):
        stub: generation_pb2_grpc.GenerationAsyncStub = generation_pb2_grpc.GenerationStub(channel)
        left, answered = (stub.Generate(pb.GenerateRequest(prompt="a")) for _ in range(2))
        sinks = [(await engine.submitted.get())[1] for _ in range(2)]
        left.cancel()
        await engine.cancelled.get()
        for sink in sinks:
            sink(finished())
        async with asyncio.timeout(20):
            assert [event.WhichOneof("event") async for event in answered] == ["started", "finished"]
        assert errors.totals() == {}


async def test_each_failure_of_a_batch_counts() -> None:
    """The call itself ends well; a request that the engine only puts off is no failure."""
    engine = FakeEngine()
    asked = pb.GenerateBatchRequest(requests=[pb.GenerateRequest(prompt=text) for text in "abc"])
    async with counting(engine) as (channel, errors):
        replies = generation_pb2_grpc.GenerationStub(channel).GenerateBatch(asked)
        for end in (Failed("", QueueFull(1, 0.0)), Failed("", DeadlineTooShort(2.0, 1.0)), finished(), finished()):
            _, sink = await engine.submitted.get()
            sink(end)
        assert sorted([reply.WhichOneof("result") async for reply in replies]) == ["completion"] * 2 + ["failure"]
        await counted(errors, {(BATCH, "DEADLINE_EXCEEDED"): 1})


def test_operators_see_it() -> None:
    """In the snapshots of a whole daemon: limits, roles, bytes that are no message, and methods that are none."""
    book = LimitBook(Limits(requests_per_minute=1))
    entrance = make_entrance(Rules({}, {f"uid:{os.geteuid()}": USUAL_ROLES}, os.geteuid()))
    with serving_all(ScriptedSession(), book=book, entrance=entrance) as target, Client(target) as client:
        client.complete("a", options=Options(max_tokens=1))
        for _ in range(2):
            with pytest.raises(RateLimited):
                client.complete("a", options=Options(max_tokens=1))
        with pytest.raises(InvalidRequest):
            client.complete("a", options=Options(top_p=7.0))
        with pytest.raises(NotFound):
            client.complete("a", options=Options(model="other"))
        with pytest.raises(PermissionDenied):
            client.unload_model("scripted")
        with grpc.insecure_channel(target) as channel:
            for method, sent in ((TOKENIZE, b"\xff\xff"), ("/made.up/One", b""), ("/made.up/Two", b"")):
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(method)(sent)
        expected = {
            (OTHER, "UNIMPLEMENTED"): 2,
            (GENERATE, "INVALID_ARGUMENT"): 1,
            (GENERATE, "NOT_FOUND"): 1,
            (GENERATE, "RESOURCE_EXHAUSTED"): 2,
            (TOKENIZE, "INVALID_ARGUMENT"): 1,
            ("/edgeqwen.v1.Models/UnloadModel", "PERMISSION_DENIED"): 1,
        }
        while {(each.method, each.code): each.total for each in client.snapshot().call_errors} != expected:
            pass
