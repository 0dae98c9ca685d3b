"""The standard health service says whether to send requests here."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from unit.runtime.fake_engine import serving

from runtime.health import SERVICES, Health

Status = health_pb2.HealthCheckResponse


@pytest.mark.parametrize("service", SERVICES)
async def test_health_follows_the_daemon(service: str) -> None:
    """Serving once it is ready, not serving from the start of draining on; for the daemon and for each service."""
    health = Health()
    async with serving(health.add_to) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await health.serving()
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == Status.SERVING
        await health.not_serving()
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == Status.NOT_SERVING


async def test_who_watches_is_told_of_the_change() -> None:
    health = Health()
    await health.serving()
    async with serving(health.add_to) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == Status.SERVING
        await health.not_serving()
        assert (await watch.read()).status == Status.NOT_SERVING
        watch.cancel()


async def test_a_service_that_is_not_here_is_not_found() -> None:
    health = Health()
    await health.serving()
    async with serving(health.add_to) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="other"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
