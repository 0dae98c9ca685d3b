"""`edgeqwen.v1.Generation` on gRPC: one call, one request of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc.aio
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import generation_pb2_grpc

from .engine import Engine
from .errors import EdgeQwenError, Fault, QueueFull, RequestError, Unavailable
from .requests import RequestReader
from .sequence import Delta, Event, Failed, Finished, FinishReason, Sequence, TokenLogprobs

Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]

MERGED_TOKENS = 1024  # keeps a message well below the 4 MiB that clients accept
MAX_FAULTS = 8
MAX_FAULT_CHARS = 160

_REASONS = {
    FinishReason.EOS: pb.Finished.REASON_EOS,
    FinishReason.STOP: pb.Finished.REASON_STOP,
    FinishReason.LENGTH: pb.Finished.REASON_LENGTH,
}

# The one table from errors to gRPC codes; the first class that fits counts.
_CODES: tuple[tuple[type[EdgeQwenError], int], ...] = (
    (RequestError, code_pb2.INVALID_ARGUMENT),
    (QueueFull, code_pb2.RESOURCE_EXHAUSTED),
    (Unavailable, code_pb2.UNAVAILABLE),
    (EdgeQwenError, code_pb2.INTERNAL),
)


class GenerationService(generation_pb2_grpc.GenerationServicer):
    """Streams completions of `model`."""

    def __init__(self, engine: Engine, reader: RequestReader, model: str) -> None:
        self._engine = engine
        self._reader = reader
        self._model = model
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
            # Tokenizing a long prompt takes milliseconds, in which other streams go on.
            asked = await asyncio.to_thread(self._reader.read, request)
            sequence = self._engine.submit(asked, events.put)
        except EdgeQwenError as error:
            self._log.info("refused", reason=type(error).__name__, detail=_public(error))
            await _abort(context, error)
        log = self._log.bind(request_id=_request_id(sequence))
        log.info("started", prompt_tokens=sequence.prompt_tokens, max_tokens=asked.max_tokens)
        ended = False
        try:
            yield pb.GenerateResponse(started=self._started(sequence))
            while not ended:
                delta, end = await events.next()
                if delta is not None:
                    yield pb.GenerateResponse(delta=delta)
                if isinstance(end, Failed):
                    ended = True
                    log.error("failed", detail=end.message, completion_tokens=len(sequence.output))
                    await context.abort(self._failure_code(), end.message)
                if isinstance(end, Finished):
                    ended = True
                    log.info("finished", reason=end.reason.name, **_figures(end))
                    yield pb.GenerateResponse(finished=_finished(end))
        finally:
            if not ended:  # the client left, cancelled, or its deadline passed
                self._engine.cancel(sequence)
                log.info("cancelled", completion_tokens=len(sequence.output))

    async def Tokenize(  # noqa: N802 - the name is the contract's
        self, request: pb.TokenizeRequest, context: grpc.aio.ServicerContext[pb.TokenizeRequest, pb.TokenizeResponse]
    ) -> pb.TokenizeResponse:
        try:
            ids = await asyncio.to_thread(self._reader.tokens, request)
        except EdgeQwenError as error:
            await _abort(context, error)
        return pb.TokenizeResponse(count=len(ids), token_ids=() if request.count_only else ids)

    async def Detokenize(  # noqa: N802 - the name is the contract's
        self,
        request: pb.DetokenizeRequest,
        context: grpc.aio.ServicerContext[pb.DetokenizeRequest, pb.DetokenizeResponse],
    ) -> pb.DetokenizeResponse:
        try:
            return pb.DetokenizeResponse(text=await asyncio.to_thread(self._reader.text, request))
        except EdgeQwenError as error:
            await _abort(context, error)

    def _opened(self, context: Context) -> None:
        self._open += 1
        self._none_open.clear()
        context.add_done_callback(self._ended)  # type: ignore[arg-type]  # the stubs ask for a class of their own

    def _ended(self, _: Context) -> None:
        self._open -= 1
        if self._open == 0:
            self._none_open.set()

    def _failure_code(self) -> grpc.StatusCode:
        """A daemon that leaves did nothing wrong, and neither did the request: another daemon can answer it."""
        return grpc.StatusCode.UNAVAILABLE if self._engine.stats().draining else grpc.StatusCode.INTERNAL

    def _started(self, sequence: Sequence) -> pb.Started:
        return pb.Started(request_id=_request_id(sequence), model=self._model, prompt_tokens=sequence.prompt_tokens)


class _Events:
    """Events on their way from the engine's thread to a coroutine. Deltas that a slow client has not taken yet are
    merged, so what waits is bounded by the request's max_tokens."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        """Called on the engine's thread."""
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, event)

    async def next(self) -> tuple[pb.Delta | None, Finished | Failed | None]:
        """What is there, at least one event: deltas merged into one, and the end if it has come."""
        text: list[str] = []
        tokens: list[int] = []
        logprobs: list[pb.TokenLogprobs] = []
        end: Finished | Failed | None = None
        event = await self._waiting.get()
        while True:
            if isinstance(event, Delta):
                text.append(event.text)
                tokens += event.token_ids
                logprobs += map(_logprobs, event.logprobs)
            else:
                end = event
            if self._waiting.empty() or len(tokens) >= MERGED_TOKENS:
                break
            event = self._waiting.get_nowait()
        delta = pb.Delta(text="".join(text), token_ids=tokens, logprobs=logprobs) if tokens else None
        return delta, end


def _logprobs(of: TokenLogprobs) -> pb.TokenLogprobs:
    top = [pb.TokenLogprobs.Candidate(token_id=token, logprob=logprob) for token, logprob in of.top]
    return pb.TokenLogprobs(logprob=of.logprob, top=top)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: EdgeQwenError) -> NoReturn:
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    status = status_pb2.Status(code=code, message=str(error))
    if isinstance(error, RequestError):
        faults = _shown(error)
        status.message = "; ".join(map(str, faults))
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=fault.path, description=fault.message) for fault in faults
        ]
        status.details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    if isinstance(error, QueueFull):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1e3))
        status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")


def _shown(error: RequestError) -> list[Fault]:
    """As many faults as a reply can carry: gRPC has 8 KiB for all of an error, and counts most of it three times."""
    shown = [Fault(fault.path, _short(fault.message)) for fault in error.faults[:MAX_FAULTS]]
    if more := len(error.faults) - len(shown):
        shown.append(Fault("", f"and {more} more faults"))
    return shown


def _short(message: str) -> str:
    """Plain ASCII, which does not grow on its way, of bounded length."""
    text = message.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= MAX_FAULT_CHARS else f"{text[: MAX_FAULT_CHARS - 3]}..."


def _packed(detail: error_details_pb2.BadRequest | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _public(error: EdgeQwenError) -> str:
    """What a log may say of a refused request: where its faults are, nothing of its text."""
    if isinstance(error, RequestError):
        return ", ".join(fault.path for fault in error.faults[:MAX_FAULTS])
    return str(error)


def _request_id(sequence: Sequence) -> str:
    return f"r{sequence.id}"


def _figures(end: Finished) -> dict[str, float]:
    return {
        "prompt_tokens": end.usage.prompt_tokens,
        "cached_prompt_tokens": end.usage.cached_prompt_tokens,
        "completion_tokens": end.usage.completion_tokens,
        "time_to_first_token_ms": round(end.timings.time_to_first_token_ms, 1),
        "total_ms": round(end.timings.total_ms, 1),
    }


def _finished(end: Finished) -> pb.Finished:
    return pb.Finished(
        reason=_REASONS[end.reason],
        usage=pb.Usage(
            prompt_tokens=end.usage.prompt_tokens,
            completion_tokens=end.usage.completion_tokens,
            cached_prompt_tokens=end.usage.cached_prompt_tokens,
        ),
        timings=pb.Timings(
            queue_ms=end.timings.queue_ms,
            time_to_first_token_ms=end.timings.time_to_first_token_ms,
            total_ms=end.timings.total_ms,
            prefill_tokens_per_second=end.timings.prefill_tokens_per_second,
            decode_tokens_per_second=end.timings.decode_tokens_per_second,
        ),
        stop=end.stop,
    )
