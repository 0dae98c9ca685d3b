"""`edgeqwen.v1.Generation` on gRPC: calls in, requests of the engine, and what they give back out."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, NoReturn

import grpc.aio
import structlog

from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import generation_pb2_grpc

from .access.caller import current
from .engine import Engine
from .errors import DeadlineTooShort, EdgeQwenError, Exhausted, Unavailable
from .fingerprint import fingerprint
from .model import Model
from .models import Models
from .replies import abort, code_of, delta_message, finished_message, loggable
from .sequence import Delta, Event, Failed, Finished, Request, Sequence

Context = grpc.aio.ServicerContext[Any, Any]

_NO_FAULT_OF_OURS = (Exhausted, DeadlineTooShort)

MERGED_TOKENS = 1024  # keeps a message well below the 4 MiB that clients accept


class GenerationService(generation_pb2_grpc.GenerationServicer):
    """Completions by the models that are loaded."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._log = structlog.get_logger()
        self._open = 0
        self._none_open = asyncio.Event()
        self._none_open.set()

    async def wait_ended(self) -> None:
        """Returns when no call is open: the last messages and the status of each are on their way."""
        await self._none_open.wait()

    async def Generate(  # noqa: N802 - the name is the contract's
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        self._opened(context)
        events = _Events()
        try:
            model, sequences = await self._begin(request, events, context)
        except EdgeQwenError as error:
            await self._refuse(context, error)
        first = sequences[0]
        log = self._log.bind(request_id=_request_id(first), model=model.name, client=first.request.client)
        log.info("started", **_sizes(first), n=len(sequences))
        running = dict(enumerate(sequences))
        try:
            yield pb.GenerateResponse(started=_started(model, first))
            while running:
                for index, event in await events.next():
                    if isinstance(event, Delta):
                        yield pb.GenerateResponse(delta=delta_message(index, event))
                        continue
                    sequence = running.pop(index)
                    if isinstance(event, Failed):
                        why = _error_of(event, model.engine)
                        level = logging.INFO if isinstance(why, _NO_FAULT_OF_OURS) else logging.ERROR
                        log.log(level, "failed", detail=loggable(why), completion_tokens=len(sequence.output))
                        await abort(context, why)
                    log.info("finished", index=index, reason=event.reason.name, **_figures(event))
                    yield pb.GenerateResponse(finished=finished_message(index, event))
        finally:  # some run on if the client left or cancelled, if its deadline passed, or if another failed
            for index, sequence in running.items():
                model.engine.cancel(sequence)
                log.info("cancelled", index=index, completion_tokens=len(sequence.output))

    async def GenerateBatch(  # noqa: N802 - the name is the contract's
        self, request: pb.GenerateBatchRequest, context: Context
    ) -> AsyncIterator[pb.GenerateBatchResponse]:
        self._opened(context)
        try:
            model = self._models.get(request.model)
            asked = await asyncio.to_thread(model.reader.batch, request)
        except EdgeQwenError as error:
            await self._refuse(context, error)
        log = self._log.bind(batch=len(asked), model=model.name)
        log.info("batch started")
        left = len(asked)
        batch = _Batch(self._models, request, model, asked, context.time_remaining)
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

    async def _begin(
        self, request: pb.GenerateRequest, events: _Events, context: Context
    ) -> tuple[Model, list[Sequence]]:
        """Reads the request for the model that it means, and queues it there.

        A model that gives way in this moment refuses it: then the one in its place reads it once more.
        """
        while True:
            model = self._models.get(request.model)
            # Tokenizing a long prompt takes milliseconds, in which other streams go on.
            asked = await asyncio.to_thread(model.reader.samples, request)
            try:
                sequences = model.engine.submit_all(
                    [(each, events.of(index)) for index, each in enumerate(asked)], timeout_s=context.time_remaining()
                )
            except Exhausted:
                raise
            except Unavailable:
                if self._models.get(request.model) is model:
                    raise
            else:
                return model, sequences

    async def _refuse(self, context: Context, error: EdgeQwenError) -> NoReturn:
        self._log.info("refused", client=current().name, reason=type(error).__name__, detail=loggable(error))
        await abort(context, error)

    def _opened(self, context: Context) -> None:
        self._open += 1
        self._none_open.clear()
        context.add_done_callback(self._ended)  # type: ignore[arg-type]  # the stubs ask for a class of their own

    def _ended(self, _: Context) -> None:
        self._open -= 1
        if self._open == 0:
            self._none_open.set()


class _Events:
    """Events of some completions on their way from the engine's thread to a coroutine. Deltas that a slow client has
    not taken yet are merged, so what waits is bounded by the requests' max_tokens."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    def of(self, index: int) -> Callable[[Event], None]:
        """Where the events of a completion go; called on the engine's thread."""
        return partial(self._put, index)

    async def next(self) -> list[tuple[int, Event]]:
        """What is there, at least one event, each with its completion: deltas of one merged, the ends last."""
        deltas: dict[int, list[Delta]] = {}
        ends: list[tuple[int, Event]] = []
        tokens = 0
        index, event = await self._waiting.get()
        while True:
            if isinstance(event, Delta):
                deltas.setdefault(index, []).append(event)
                tokens += len(event.token_ids)
            else:
                ends.append((index, event))
            if self._waiting.empty() or tokens >= MERGED_TOKENS:
                break
            index, event = self._waiting.get_nowait()
        return [*((index, Delta.join(its)) for index, its in deltas.items()), *ends]

    def _put(self, index: int, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, (index, event))


class _Batch:
    """Many requests of one call, of which no more run or queue at once than there are slots."""

    def __init__(
        self,
        models: Models,
        message: pb.GenerateBatchRequest,
        model: Model,
        asked: list[tuple[int, int, Request]],
        time_remaining: Callable[[], float | None],
    ) -> None:
        self._models, self._message, self._time_remaining = models, message, time_remaining
        self._model, self._asked = model, asked
        self._width = model.engine.stats().slots
        self._events = _Events()
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
                ended.append(self._failed(at, _error_of(event, engine)))
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
        place, index, _ = self._asked[at]
        failure = pb.Failure(code=code_of(error), message=str(error), index=index)
        return pb.GenerateBatchResponse(request=place, failure=failure)


def _error_of(event: Failed, engine: Engine) -> EdgeQwenError:
    """A daemon that leaves did nothing wrong, and neither did the request: another daemon can answer it."""
    if event.error is not None:
        return event.error
    return Unavailable(event.message) if engine.stats().draining else EdgeQwenError(event.message)


def _started(model: Model, sequence: Sequence) -> pb.Started:
    return pb.Started(request_id=_request_id(sequence), model=model.name, prompt_tokens=sequence.prompt_tokens)


def _request_id(sequence: Sequence) -> str:
    return f"r{sequence.id}"


def _sizes(sequence: Sequence) -> dict[str, object]:
    """What a log may say of what was asked."""
    request = sequence.request
    return {
        "prompt": fingerprint(request.prompt),
        "prompt_tokens": sequence.prompt_tokens,
        "max_tokens": request.max_tokens,
    }


def _figures(end: Finished) -> dict[str, float]:
    return {
        "prompt_tokens": end.usage.prompt_tokens,
        "cached_prompt_tokens": end.usage.cached_prompt_tokens,
        "completion_tokens": end.usage.completion_tokens,
        "time_to_first_token_ms": round(end.timings.time_to_first_token_ms, 1),
        "total_ms": round(end.timings.total_ms, 1),
    }
