"""`grpc.health.v1.Health`: whether to send requests here."""

from __future__ import annotations

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

SERVICES = ("", "edgeqwen.v1.Generation", "edgeqwen.v1.Models", "edgeqwen.v1.Telemetry")


class Health:
    """The standard health service. The empty name stands for the whole daemon."""

    def __init__(self) -> None:
        self._servicer = aio.HealthServicer()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Makes `server` answer health checks."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def serving(self) -> None:
        """Requests are welcome."""
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        """Requests will be refused."""
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def _set(self, status: int) -> None:
        for service in SERVICES:
            await self._servicer.set(service, status)
