"""`grpc.health.v1.Health`: whether to send requests here, service by service and model by model."""

from __future__ import annotations

from collections.abc import Mapping

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

GENERATION = "edgeqwen.v1.Generation"
_OTHERS = ("Control", "Health", "Models", "Rollout", "Telemetry")
SERVICES = ("", GENERATION, *(f"edgeqwen.v1.{name}" for name in _OTHERS))


def model_service(name: str) -> str:
    """The name under which health is asked of one model."""
    return f"model/{name}"


class Health:
    """The standard health service. The empty name stands for the whole daemon, which is there to generate."""

    def __init__(self) -> None:
        self._servicer = aio.HealthServicer()
        self._told: dict[str, bool] = {}
        self._draining = False

    def add_to(self, server: grpc.aio.Server) -> None:
        """Makes `server` answer health checks."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def follow(self, models: Mapping[str, bool]) -> None:
        """Whether each loaded model serves now. Generation does if one of them does; a model that has gone does not."""
        gone = {name for name in self._told if name not in SERVICES} - {model_service(name) for name in models}
        some = any(models.values())
        serving = dict.fromkeys(SERVICES, True) | {"": some, GENERATION: some}
        serving |= {model_service(name): serves for name, serves in models.items()} | dict.fromkeys(gone, False)
        if self._draining:
            serving |= {name: False for name in serving if name in ("", GENERATION) or name not in SERVICES}
        for name, serves in serving.items():
            if self._told.get(name) is not serves:
                self._told[name] = serves
                await self._servicer.set(name, _STATUS[serves])

    async def draining(self) -> None:
        """Requests will be refused, from now on; whoever wants to look on still may."""
        self._draining = True
        await self.follow({})


_STATUS = {
    True: health_pb2.HealthCheckResponse.SERVING,
    False: health_pb2.HealthCheckResponse.NOT_SERVING,
}
