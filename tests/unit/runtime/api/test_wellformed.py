"""Bytes that do not parse, to methods of every kind."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from fakes import ScriptedSession, byte_tokenizer
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY
from serving import make_entrance
from unit.runtime.fake_engine import TIMEOUT_S, only_model

from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import generation_pb2_grpc
from runtime.engine.engine import Engine
from runtime.lifecycle.services import make_services

NO_MESSAGE = b"\xff\xff\xff\xff"
BAD_TEXT = b"\x12\x02\xff\xfe"


@asynccontextmanager
async def server() -> AsyncIterator[grpc.aio.Channel]:
    """Everything that the daemon serves."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:
        limits = {"queue_limit": 4, "prefill_chunk_tokens": 8, "kv_budget_tokens": 1000}
        engine = Engine(ScriptedSession(), byte_tokenizer(), eos_token_ids=frozenset(), **limits)
        entrance = make_entrance()
        services = make_services(only_model(engine), 1 << 20, entrance)
        server, caretaker = services.server, services.caretaker
        entrance.add_port(f"unix:{folder}/s")
        await server.start()
        entrance.start()
        await caretaker.start()
        try:
            async with asyncio.timeout(TIMEOUT_S), grpc.aio.insecure_channel(f"unix:{folder}/s") as channel:
                yield channel
        finally:
            await caretaker.stop()
            await asyncio.to_thread(engine.stop)
            await server.stop(None)
            await entrance.close()


@pytest.mark.parametrize("data", [NO_MESSAGE, BAD_TEXT])
@pytest.mark.parametrize(
    "method",
    [
        "edgeqwen.v1.Generation/Tokenize",
        "edgeqwen.v1.Generation/Generate",
        "edgeqwen.v1.Generation/GenerateBatch",
        "edgeqwen.v1.Models/LoadModel",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
    ],
)
async def test_what_does_not_parse_is_refused(method: str, data: bytes) -> None:
    """INVALID_ARGUMENT with details; the text is the same whatever Python thought of it."""
    if method.startswith("grpc") and data is BAD_TEXT:
        data = b"\x0a\x02\xff\xfe"
    async with server() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(f"/{method}")(data)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = dict(refused.value.trailing_metadata())[GRPC_DETAILS_METADATA_KEY]
    assert status_pb2.Status.FromString(details).details[0].Is(error_details_pb2.BadRequest.DESCRIPTOR)
    assert "DecodeError" not in refused.value.details()


async def test_a_stream_of_requests_is_answered_up_to_the_one_that_does_not_parse() -> None:
    """Also where replies are streamed as the requests come."""
    asked = [b"\x3a\x00", NO_MESSAGE]  # ServerReflectionRequest.list_services
    async with server() as channel:
        call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(iter(asked))
        assert reflection.SERVICE_NAME.encode() in await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_parses_comes_through() -> None:
    """By methods that yield, that return and that write."""
    async with server() as channel:
        check = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        ids = await generation_pb2_grpc.GenerationStub(channel).Tokenize(pb.TokenizeRequest(prompt="ab"))
        assert ids.count == 2
