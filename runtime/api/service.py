"""`edgeqwen.v1.Generation` on gRPC: calls in, requests of the engine, and what they give back out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc.aio
import structlog

from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import generation_pb2_grpc

from ..access.call_errors import CallErrors
from ..engine.engine import Engine
from ..engine.sequence import Delta, Failed, Finished, Request, Sequence
from ..errors import EdgeQwenError, Exhausted, Unavailable
from ..models.model import Model
from ..models.registry import Models
from .generator import Events, Generator, error_of
from .open_calls import OpenCalls
from .replies import abort, code_name, code_of, delta_message, finished_message

Context = grpc.aio.ServicerContext[Any, Any]
_BATCH = "/edgeqwen.v1.Generation/GenerateBatch"


class GenerationService(generation_pb2_grpc.GenerationServicer):
    """Completions by the models that are loaded."""

    def __init__(
        self, models: Models, generator: Generator, calls: OpenCalls, errors: CallErrors | None = None
    ) -> None:
        self._models, self._generator, self._calls = models, generator, calls
        self._errors = errors or CallErrors()
        self._log = structlog.get_logger()

    async def Generate(  # noqa: N802 - the name is the contract's
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        self._calls.add(context)
        try:
            async with aclosing(self._generator.generate(request, context.time_remaining())) as events:
                async for event in events:
                    yield event
        except EdgeQwenError as error:
            await abort(context, error)

    async def GenerateBatch(  # noqa: N802 - the name is the contract's
        self, request: pb.GenerateBatchRequest, context: Context
    ) -> AsyncIterator[pb.GenerateBatchResponse]:
        self._calls.add(context)
        try:
            model = self._models.get(request.model)
            asked = await asyncio.to_thread(model.reader.batch, request)
        except EdgeQwenError as error:
            await self._refuse(context, error)
        log = self._log.bind(batch=len(asked), model=model.name)
        log.info("batch started")
        left = len(asked)
        batch = _Batch(self._models, request, model, asked, context.time_remaining, self._errors)
        try:
            while left:
                for reply in await batch.next():
                    left -= 1
                    yield reply
        finally:
            batch.cancel()
            log.info("batch ended", left=left)

    async def Tokenize(  # noqa: N802 - the name is the contract's
        self, request: pb.TokenizeRequest, context: grpc.aio.ServicerContext[pb.TokenizeRequest, pb.TokenizeResponse]
    ) -> pb.TokenizeResponse:
        try:
            ids = await asyncio.to_thread(self._models.get(request.model).reader.tokens, request)
        except EdgeQwenError as error:
            await abort(context, error)
        return pb.TokenizeResponse(count=len(ids), token_ids=() if request.count_only else ids)

    async def Detokenize(  # noqa: N802 - the name is the contract's
        self,
        request: pb.DetokenizeRequest,
        context: grpc.aio.ServicerContext[pb.DetokenizeRequest, pb.DetokenizeResponse],
    ) -> pb.DetokenizeResponse:
        try:
            text = await asyncio.to_thread(self._models.get(request.model).reader.text, request)
        except EdgeQwenError as error:
            await abort(context, error)
        return pb.DetokenizeResponse(text=text)

    async def _refuse(self, context: Context, error: EdgeQwenError) -> NoReturn:
        self._generator.log_refusal(error)
        await abort(context, error)


class _Batch:
    """Many requests of one call, of which no more run or queue at once than there are slots."""

    def __init__(
        self,
        models: Models,
        message: pb.GenerateBatchRequest,
        model: Model,
        asked: list[tuple[int, int, Request]],
        time_remaining: Callable[[], float | None],
        errors: CallErrors,
    ) -> None:
        self._models, self._message, self._time_remaining = models, message, time_remaining
        self._errors = errors
        self._model, self._asked = model, asked
        self._width = model.engine.stats().slots
        self._events = Events()
        self._waiting = deque(range(len(asked)))
        self._running: dict[int, tuple[Engine, Sequence]] = {}
        self._deltas: dict[int, list[Delta]] = {}

    async def next(self) -> list[pb.GenerateBatchResponse]:
        """Those that have ended since; may be none."""
        ended = await self._submit()
        if not self._running:
            return ended
        for at, event in await self._events.next():
            if isinstance(event, Delta):
                self._deltas[at].append(event)
                continue
            engine, _ = self._running.pop(at)
            delta = Delta.join(self._deltas.pop(at))
            if isinstance(event, Failed) and isinstance(event.error, Exhausted):
                self._waiting.appendleft(at)  # it made room for another client, and comes again
            elif isinstance(event, Finished):
                ended.append(self._completed(at, delta, event))
            else:
                ended.append(self._failed(at, error_of(event, engine)))
        return ended

    def cancel(self) -> None:
        """Forgets those that have not ended."""
        self._waiting.clear()
        for engine, sequence in self._running.values():
            engine.cancel(sequence)

    async def _submit(self) -> list[pb.GenerateBatchResponse]:
        """As many as may run; those that are refused for good have ended."""
        refused: list[pb.GenerateBatchResponse] = []
        while self._waiting and len(self._running) < self._width:
            at = self._waiting[0]
            try:
                engine = self._model.engine
                request, sink = self._asked[at][2], self._events.of(at)
                self._running[at] = engine, engine.submit(request, sink, timeout_s=self._time_remaining())
            except Exhausted as error:
                if self._running:
                    break
                await asyncio.sleep(error.retry_after_s)
                continue
            except EdgeQwenError as error:
                if isinstance(error, Unavailable) and await self._move():
                    continue
                refused.append(self._failed(at, error))
            else:
                self._deltas[at] = []
            self._waiting.popleft()
        return refused

    async def _move(self) -> bool:
        """What has not begun goes to the model in the place of one that gave way; False if there is no other."""
        try:
            model = self._models.get(self._message.model)
            asked = await asyncio.to_thread(model.reader.batch, self._message)
        except EdgeQwenError:
            return False
        moved = model is not self._model
        self._model, self._asked = model, asked
        return moved

    def _completed(self, at: int, delta: Delta, end: Finished) -> pb.GenerateBatchResponse:
        place, index, _ = self._asked[at]
        whole = pb.Completion(delta=delta_message(index, delta), finished=finished_message(index, end))
        return pb.GenerateBatchResponse(request=place, completion=whole)

    def _failed(self, at: int, error: EdgeQwenError) -> pb.GenerateBatchResponse:
        self._errors.add(_BATCH, code_name(error))
        place, index, _ = self._asked[at]
        failure = pb.Failure(code=code_of(error), message=str(error), index=index)
        return pb.GenerateBatchResponse(request=place, failure=failure)
