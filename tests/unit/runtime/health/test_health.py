"""The standard health service says whether to send requests here."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from unit.runtime.fake_engine import serving

from runtime.health.health import GENERATION, SERVICES, Health, model_service

Status = health_pb2.HealthCheckResponse
OTHERS = sorted(set(SERVICES) - {"", GENERATION})


async def statuses(channel: grpc.aio.Channel, *services: str) -> list[bool]:
    stub = health_pb2_grpc.HealthStub(channel)
    replies = [await stub.Check(health_pb2.HealthCheckRequest(service=name)) for name in services]
    return [reply.status == Status.SERVING for reply in replies]


async def test_health_follows_the_models() -> None:
    """Generation serves while one of them does; each model has a health of its own; and one may always look on."""
    health = Health()
    async with serving(health.add_to) as channel:
        names = ("", GENERATION, "model/a", "model/b", *OTHERS)
        for models, expected in (
            ({"a": True, "b": True}, (True, True, True, True)),
            ({"a": False, "b": True}, (True, True, False, True)),
            ({"a": False, "b": False}, (False, False, False, False)),
            ({"b": True}, (True, True, False, True)),
            ({}, (False, False, False, False)),
        ):
            await health.follow(models)
            assert await statuses(channel, *names) == [*expected, *[True for _ in OTHERS]]


async def test_from_draining_on_nothing_is_to_be_sent_here() -> None:
    """Whatever the models do; telemetry can still be asked."""
    health = Health()
    await health.follow({"a": True})
    async with serving(health.add_to) as channel:
        await health.draining()
        await health.follow({"a": True})
        assert await statuses(channel, "", GENERATION, model_service("a")) == [False, False, False]
        assert await statuses(channel, *OTHERS) == [True for _ in OTHERS]


async def test_who_watches_is_told_of_the_change() -> None:
    health = Health()
    await health.follow({"a": True})
    async with serving(health.add_to) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == Status.SERVING
        await health.follow({"a": False})
        assert (await watch.read()).status == Status.NOT_SERVING
        watch.cancel()


async def test_a_service_that_is_not_here_is_not_found() -> None:
    health = Health()
    await health.follow({"a": True})
    async with serving(health.add_to) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="other"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
