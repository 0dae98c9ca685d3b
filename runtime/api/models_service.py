"""`edgeqwen.v1.Models` on gRPC: what is loaded, and changes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import structlog

from edgeqwen.v1 import models_pb2 as pb
from edgeqwen.v1 import models_pb2_grpc

from ..errors import EdgeQwenError, Fault, RequestError
from ..models.model import Model
from ..models.registry import Models, State
from ..telemetry.messages import model_info
from .replies import abort

_STATES: dict[State, pb.ModelState] = {
    "available": pb.MODEL_STATE_AVAILABLE,
    "verifying": pb.MODEL_STATE_VERIFYING,
    "waiting": pb.MODEL_STATE_WAITING,
    "loading": pb.MODEL_STATE_LOADING,
    "checking": pb.MODEL_STATE_CHECKING,
    "ready": pb.MODEL_STATE_READY,
    "draining": pb.MODEL_STATE_DRAINING,
}


class ModelsService(models_pb2_grpc.ModelsServicer):
    """Lists, loads and unloads."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._log = structlog.get_logger()

    async def ListModels(  # noqa: N802 - the name is the contract's
        self,
        request: pb.ListModelsRequest,
        context: grpc.aio.ServicerContext[pb.ListModelsRequest, pb.ListModelsResponse],
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(
            models=[
                pb.ListedModel(
                    name=each.name,
                    state=_STATES[each.state],
                    model=model_info(each.model.facts) if each.model else None,
                )
                for each in self._models.listed()
            ]
        )

    async def LoadModel(  # noqa: N802 - the name is the contract's
        self, request: pb.LoadModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.LoadModelResponse]:
        states: asyncio.Queue[State | None] = asyncio.Queue()
        load = asyncio.create_task(self._load(request, states))
        try:
            while state := await states.get():
                yield pb.LoadModelResponse(state=_STATES[state])
            info = model_info((await load).facts)
        except EdgeQwenError as error:
            self._log.warning("not loaded", package=request.package, detail=str(error))
            await abort(context, error)
        finally:
            load.cancel()  # what it waits for goes on
        self._log.info("loaded", package=request.package, model=info.name)
        yield pb.LoadModelResponse(state=pb.MODEL_STATE_READY, model=info)

    async def UnloadModel(  # noqa: N802 - the name is the contract's
        self,
        request: pb.UnloadModelRequest,
        context: grpc.aio.ServicerContext[pb.UnloadModelRequest, pb.UnloadModelResponse],
    ) -> pb.UnloadModelResponse:
        try:
            if not request.name:
                raise RequestError([Fault("name", "is required")])
            await self._models.unload(request.name)
        except EdgeQwenError as error:
            await abort(context, error)
        return pb.UnloadModelResponse()

    async def _load(self, request: pb.LoadModelRequest, states: asyncio.Queue[State | None]) -> Model:
        try:
            if not request.package:
                raise RequestError([Fault("package", "is required: ListModels has the names")])
            return await self._models.load(
                request.package,
                request.variant or None,
                replace=request.replace,
                default=request.default,
                report=states.put_nowait,
            )
        finally:
            states.put_nowait(None)
