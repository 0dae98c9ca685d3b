"""`inference.GRPCInferenceService` on gRPC: what Triton's and KServe's clients call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from importlib.metadata import version
from typing import Any

import grpc.aio

from edgeqwen.kserve import inference_pb2 as pb
from edgeqwen.kserve import inference_pb2_grpc
from edgeqwen.v1 import generation_pb2

from ..access.call_errors import CallErrors
from ..api.generator import Generator
from ..api.open_calls import OpenCalls
from ..api.replies import abort, code_name, status_of
from ..errors import EdgeQwenError, Fault, ModelNotFound, RequestError
from ..models.registry import Models, State
from .asking import INPUTS, KNOWN, OUTPUTS, Asked, read
from .tensors import Value, add_output

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE = "inference.GRPCInferenceService"
STREAMED_AT_ONCE = 64
"""Requests of one stream; further ones wait in the connection, where gRPC's flow control holds their client back."""

_STREAM = f"/{SERVICE}/ModelStreamInfer"
_VERSION = "1"  # a package has one
_FINAL = "triton_final_response"
_STATES: dict[State, str] = {
    "available": "UNAVAILABLE",
    "verifying": "LOADING",
    "waiting": "LOADING",
    "loading": "LOADING",
    "checking": "LOADING",
    "ready": "READY",
    "draining": "UNLOADING",
}
_REASONS = {
    generation_pb2.Finished.REASON_EOS: b"stop",
    generation_pb2.Finished.REASON_STOP: b"stop",
    generation_pb2.Finished.REASON_LENGTH: b"length",
    generation_pb2.Finished.REASON_TOOL_CALLS: b"tool_calls",
}


class InferenceService(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The loaded models as models that take and give text tensors."""

    def __init__(
        self, models: Models, generator: Generator, calls: OpenCalls, errors: CallErrors | None = None
    ) -> None:
        self._models, self._generator, self._calls = models, generator, calls
        self._errors = errors or CallErrors()

    async def ServerLive(  # noqa: N802 - the names are the protocol's
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._takes_requests())

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=request.version in ("", _VERSION) and self._takes_requests(request.name))

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="edgeqwen", version=version("edgeqwen"), extensions=["model_repository"])

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        tensor = pb.ModelMetadataResponse.TensorMetadata
        try:
            model = self._models.get(request.name)
            if request.version not in ("", _VERSION):
                raise ModelNotFound(f'{model.name} has version "{_VERSION}" only')
        except EdgeQwenError as error:
            await abort(context, error)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[_VERSION],
            platform="edgeqwen",
            inputs=[tensor(name=name, datatype=kind, shape=[size]) for name, (kind, size) in INPUTS.items()],
            outputs=[tensor(name=name, datatype=kind, shape=[1]) for name, kind in OUTPUTS.items()],
        )

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        self._calls.add(context)
        try:
            asked = await self._read(request)
            if asked.stream:
                raise RequestError([Fault("stream", "is for ModelStreamInfer: leave it out")])
            async with aclosing(self._answer(request.id, asked)) as answers:
                return await anext(answers)
        except EdgeQwenError as error:
            await abort(context, error)

    async def ModelStreamInfer(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        self._calls.add(context)
        stream = _Stream(self, request_iterator)
        try:
            async for response in stream.responses():
                yield response
        finally:
            stream.cancel()

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        index = pb.RepositoryIndexResponse.ModelIndex
        listed = (each for each in self._models.listed() if each.state == "ready" or not request.ready)
        return pb.RepositoryIndexResponse(
            models=[index(name=each.name, version=_VERSION, state=_STATES[each.state]) for each in listed]
        )

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        try:
            if request.parameters:
                raise RequestError([Fault("parameters", "must be empty: a package has its own")])
            if not request.model_name:
                raise RequestError([Fault("model_name", "is required")])
            await self._models.load(request.model_name)
        except EdgeQwenError as error:
            await abort(context, error)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        try:
            if not request.model_name:
                raise RequestError([Fault("model_name", "is required")])
            await self._models.unload(request.model_name)
        except EdgeQwenError as error:
            await abort(context, error)
        return pb.RepositoryModelUnloadResponse()

    async def streamed(self, request: pb.ModelInferRequest) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """The responses to one request of a stream; what is wrong with it is the last of them."""
        try:
            async with aclosing(self._answer(request.id, await self._read(request))) as answers:
                async for answer in answers:
                    yield pb.ModelStreamInferResponse(infer_response=answer)
        except EdgeQwenError as error:
            self._errors.add(_STREAM, code_name(error))
            failed = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
            failed.parameters[_FINAL].bool_param = True
            yield pb.ModelStreamInferResponse(error_message=status_of(error).message, infer_response=failed)

    async def _read(self, request: pb.ModelInferRequest) -> Asked:
        try:
            return await asyncio.to_thread(read, request)
        except RequestError as error:
            self._generator.log_refusal(error, KNOWN)
            raise

    async def _answer(self, request_id: str, asked: Asked) -> AsyncGenerator[pb.ModelInferResponse, None]:
        """A response for each piece of text and an empty last one; or one."""
        made, text = _Answer(request_id, asked), asked.before
        async with aclosing(self._generator.generate(asked.request)) as events:
            async for event in events:
                if event.HasField("started"):
                    made.started = event.started
                elif event.HasField("delta"):
                    text += event.delta.text
                    if asked.stream and text:
                        yield made.piece(text)
                        text = ""
                else:
                    yield made.last(text, event.finished)

    def _takes_requests(self, name: str = "") -> bool:
        ready = (model for model in self._models.ready if not name or model.name == name)
        return any(not model.engine.stats().draining for model in ready)


class _Answer:
    """Makes the responses to one request. `started` must be set first."""

    def __init__(self, request_id: str, asked: Asked) -> None:
        self._id, self._asked = request_id, asked
        self.started = generation_pb2.Started()

    def piece(self, text: str) -> pb.ModelInferResponse:
        """More of the text."""
        return self._response(text, None)

    def last(self, text: str, end: generation_pb2.Finished) -> pb.ModelInferResponse:
        """What is left of the text, and how it ended."""
        return self._response(text, end)

    def _response(self, text: str, end: generation_pb2.Finished | None) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name=self.started.model, model_version=_VERSION, id=self._id)
        response.parameters[_FINAL].bool_param = end is not None
        values: dict[str, Value] = {
            "text_output": text.encode(),
            "finish_reason": b"" if end is None else _REASONS[end.reason],
            "num_input_tokens": self.started.prompt_tokens,
            "num_output_tokens": 0 if end is None else end.usage.completion_tokens,
        }
        for name in self._asked.outputs:
            add_output(response, name, OUTPUTS[name], [values[name]], raw=self._asked.raw)
        return response


class _Stream:
    """The requests of one stream and their responses, which come as they are made, whichever request they are of."""

    def __init__(self, service: InferenceService, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        self._service = service
        self._ready: asyncio.Queue[pb.ModelStreamInferResponse | Exception | None] = asyncio.Queue(maxsize=1)
        self._room = asyncio.Semaphore(STREAMED_AT_ONCE)
        self._task = asyncio.create_task(self._take(requests))

    async def responses(self) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """All of them. Raises what went wrong on our side."""
        while (response := await self._ready.get()) is not None:
            if isinstance(response, Exception):
                raise response
            yield response

    def cancel(self) -> None:
        """Frees the slots of what has not ended."""
        self._task.cancel()

    async def _take(self, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                async for request in requests:
                    await self._room.acquire()
                    group.create_task(self._answer(request))
        except Exception as error:  # whoever sends the responses ends the call with it
            await self._ready.put(error)
        else:
            await self._ready.put(None)

    async def _answer(self, request: pb.ModelInferRequest) -> None:
        try:
            async with aclosing(self._service.streamed(request)) as responses:
                async for response in responses:
                    await self._ready.put(response)
        finally:
            self._room.release()
