"""What operators ask of a daemon: how it is, to save power, and to serve another package. A part of both clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Literal

import grpc

from .errors import answered, errors_of
from .v1 import control_pb2, control_pb2_grpc, health_pb2, health_pb2_grpc, rollout_pb2, rollout_pb2_grpc

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

    def activate(
        self, package: str = "", *, allow_downgrade: bool = False
    ) -> Generator[rollout_pb2.ActivateResponse, None, None]:
        """Has an installed package tried and served, by default the one installed last, and tells how far it is.

        A message with `checks` has what the canary found; the last one has phase DONE. Leaving the generator does not
        stop what was begun. Raises Refused for a package that is refused, such as one that fails its canary.
        """
        request = rollout_pb2.ActivateRequest(package=package, allow_downgrade=allow_downgrade)
        with errors_of(self.target):
            yield from rollout_pb2_grpc.RolloutStub(self._channel).Activate(request)

    def roll_back(self, why: str = "", *, timeout_s: float | None = None) -> rollout_pb2.RollBackResponse:
        """Has the package served again that served before; returns when it does."""
        with errors_of(self.target):
            reply: rollout_pb2.RollBackResponse = rollout_pb2_grpc.RolloutStub(self._channel).RollBack(
                rollout_pb2.RollBackRequest(why=why), timeout=timeout_s
            )
        return reply

    def commit(self, why: str = "", *, timeout_s: float = 40.0) -> rollout_pb2.CommitResponse:
        """Ends the trial of the package that serves: it is kept."""
        with errors_of(self.target):
            reply: rollout_pb2.CommitResponse = rollout_pb2_grpc.RolloutStub(self._channel).Commit(
                rollout_pb2.CommitRequest(why=why), timeout=timeout_s
            )
        return reply

    def rollout(self, *, timeout_s: float = 5.0) -> rollout_pb2.GetRolloutResponse:
        """Which installed package serves, how its trial goes, and what happened last."""
        with errors_of(self.target):
            reply: rollout_pb2.GetRolloutResponse = rollout_pb2_grpc.RolloutStub(self._channel).GetRollout(
                rollout_pb2.GetRolloutRequest(), timeout=timeout_s
            )
        return reply


class AsyncOperations:
    """Of `AsyncClient`."""

    target: str
    _channel: grpc.aio.Channel

    async def health_report(self, *, timeout_s: float = 10.0) -> health_pb2.HealthReport:
        """As `Client.health_report`."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        with errors_of(self.target):
            reply: health_pb2.HealthReport | None = await stub.GetHealthReport(
                health_pb2.GetHealthReportRequest(), timeout=timeout_s
            )
        return answered(reply, self.target)

    async def set_power_mode(self, mode: PowerMode, *, timeout_s: float = 5.0) -> str:
        """As `Client.set_power_mode`."""
        stub = control_pb2_grpc.ControlStub(self._channel)
        with errors_of(self.target):
            reply = await stub.SetPowerMode(control_pb2.SetPowerModeRequest(mode=_MODES[mode]), timeout=timeout_s)
        return str(reply.saving_power)

    async def activate(
        self, package: str = "", *, allow_downgrade: bool = False
    ) -> AsyncGenerator[rollout_pb2.ActivateResponse, None]:
        """As `Client.activate`."""
        request = rollout_pb2.ActivateRequest(package=package, allow_downgrade=allow_downgrade)
        with errors_of(self.target):
            async for reply in rollout_pb2_grpc.RolloutStub(self._channel).Activate(request):
                yield reply

    async def roll_back(self, why: str = "", *, timeout_s: float | None = None) -> rollout_pb2.RollBackResponse:
        """As `Client.roll_back`."""
        with errors_of(self.target):
            reply: rollout_pb2.RollBackResponse = await rollout_pb2_grpc.RolloutStub(self._channel).RollBack(
                rollout_pb2.RollBackRequest(why=why), timeout=timeout_s
            )
        return reply

    async def commit(self, why: str = "", *, timeout_s: float = 40.0) -> rollout_pb2.CommitResponse:
        """As `Client.commit`."""
        with errors_of(self.target):
            reply: rollout_pb2.CommitResponse = await rollout_pb2_grpc.RolloutStub(self._channel).Commit(
                rollout_pb2.CommitRequest(why=why), timeout=timeout_s
            )
        return reply

    async def rollout(self, *, timeout_s: float = 5.0) -> rollout_pb2.GetRolloutResponse:
        """As `Client.rollout`."""
        with errors_of(self.target):
            reply: rollout_pb2.GetRolloutResponse = await rollout_pb2_grpc.RolloutStub(self._channel).GetRollout(
                rollout_pb2.GetRolloutRequest(), timeout=timeout_s
            )
        return reply
