"""What operators ask of a daemon: how it is, and to save power. A part of both clients."""

from __future__ import annotations

from typing import Literal

import grpc

from .errors import errors_of
from .v1 import control_pb2, control_pb2_grpc, health_pb2, health_pb2_grpc

PowerMode = Literal["normal", "low"]

_MODES = {"normal": control_pb2.POWER_MODE_NORMAL, "low": control_pb2.POWER_MODE_LOW}


class Operations:
    """Of `Client`."""

    target: str
    _channel: grpc.Channel

    def health_report(self, *, timeout_s: float = 10.0) -> health_pb2.HealthReport:
        """Everything that there is to know of the daemon's health, each with what to do about it."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        with errors_of(self.target):
            reply: health_pb2.HealthReport = stub.GetHealthReport(
                health_pb2.GetHealthReportRequest(), timeout=timeout_s
            )
        return reply

    def set_power_mode(self, mode: PowerMode, *, timeout_s: float = 5.0) -> str:
        """Saves power from now on ("low"), or no longer ("normal"). Returns why it is saved then; empty: it is not."""
        stub = control_pb2_grpc.ControlStub(self._channel)
        with errors_of(self.target):
            reply = stub.SetPowerMode(control_pb2.SetPowerModeRequest(mode=_MODES[mode]), timeout=timeout_s)
        return str(reply.saving_power)


class AsyncOperations:
    """Of `AsyncClient`."""

    target: str
    _channel: grpc.aio.Channel

    async def health_report(self, *, timeout_s: float = 10.0) -> health_pb2.HealthReport:
        """As `Client.health_report`."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        with errors_of(self.target):
            reply: health_pb2.HealthReport = await stub.GetHealthReport(
                health_pb2.GetHealthReportRequest(), timeout=timeout_s
            )
        return reply

    async def set_power_mode(self, mode: PowerMode, *, timeout_s: float = 5.0) -> str:
        """As `Client.set_power_mode`."""
        stub = control_pb2_grpc.ControlStub(self._channel)
        with errors_of(self.target):
            reply = await stub.SetPowerMode(control_pb2.SetPowerModeRequest(mode=_MODES[mode]), timeout=timeout_s)
        return str(reply.saving_power)
