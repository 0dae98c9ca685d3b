"""`edgeqwen.v1.Control` on gRPC: changes what the daemon does. Who may call is decided before a call comes here."""

from __future__ import annotations

from typing import Any

import grpc.aio

from edgeqwen.v1 import control_pb2 as pb
from edgeqwen.v1 import control_pb2_grpc

from ..access.caller import current
from ..errors import Fault, RequestError
from ..health.caretaker import Caretaker, PowerMode
from .replies import abort

_MODES: dict[int, PowerMode] = {pb.POWER_MODE_NORMAL: "normal", pb.POWER_MODE_LOW: "low"}


class ControlService(control_pb2_grpc.ControlServicer):
    """Controls what `caretaker` looks after."""

    def __init__(self, caretaker: Caretaker) -> None:
        self._caretaker = caretaker

    async def SetPowerMode(  # noqa: N802 - the name is the contract's
        self, request: pb.SetPowerModeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SetPowerModeResponse:
        mode = _MODES.get(request.mode)
        if mode is None:
            await abort(context, RequestError([Fault("mode", "must be POWER_MODE_NORMAL or POWER_MODE_LOW")]))
        self._caretaker.set_power_mode(mode, by=current().name)
        return pb.SetPowerModeResponse(mode=request.mode, saving_power=self._caretaker.saving_power)
