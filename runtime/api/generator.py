"""A request in, its events out: the one way to the engine, whichever protocol the request came by."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Container
from functools import partial

import structlog

from edgeqwen.v1 import generation_pb2 as pb

from ..access.caller import current
from ..engine.engine import Engine
from ..engine.sequence import Delta, Event, Failed, Finished, Sequence
from ..errors import DeadlineTooShort, EdgeQwenError, Exhausted, Fault, RequestError, Unavailable
from ..fingerprint import fingerprint
from ..models.model import Model
from ..models.registry import Models
from .replies import delta_message, finished_message, loggable

_NO_FAULT_OF_OURS = (Exhausted, DeadlineTooShort)

MERGED_TOKENS = 1024  # keeps a message well below the 4 MiB that clients accept


class Generator:
    """Answers requests by the models that are loaded, and logs what becomes of them."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._log = structlog.get_logger()

    async def generate(
        self, request: pb.GenerateRequest, timeout_s: float | None = None
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        """What `edgeqwen.v1.Generation.Generate` sends. Closing it frees the slots of what has not ended.

        Args:
            timeout_s: until the caller's deadline; None for one that has none.

        Raises EdgeQwenError: before the first event if the request is refused, later if the engine fails.
        """
        events = Events()
        try:
            model, sequences = await self._begin(request, events, timeout_s)
        except EdgeQwenError as error:
            self.log_refusal(error)
            raise
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
                        why = error_of(event, model.engine)
                        level = logging.INFO if isinstance(why, _NO_FAULT_OF_OURS) else logging.ERROR
                        log.log(level, "failed", detail=loggable(why), completion_tokens=len(sequence.output))
                        raise why
                    log.info("finished", index=index, reason=event.reason.name, **_figures(event))
                    yield pb.GenerateResponse(finished=finished_message(index, event))
        finally:  # some run on if the client left or cancelled, if its deadline passed, or if another failed
            for index, sequence in running.items():
                model.engine.cancel(sequence)
                log.info("cancelled", index=index, completion_tokens=len(sequence.output))

    def log_refusal(self, error: EdgeQwenError, known: Container[str] | None = None) -> None:
        """Says that a request was refused, and nothing of its text.

        Args:
            known: what the paths of its faults may begin with, where keys or names of the client's may be in them: only
                that is said of them.
        """
        if known is not None and isinstance(error, RequestError):
            error = RequestError(Fault(_beginning(fault.path, known), fault.message) for fault in error.faults)
        self._log.info("refused", client=current().name, reason=type(error).__name__, detail=loggable(error))

    async def _begin(
        self, request: pb.GenerateRequest, events: Events, timeout_s: float | None
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
                    [(each, events.of(index)) for index, each in enumerate(asked)], timeout_s=timeout_s
                )
            except Exhausted:
                raise
            except Unavailable:
                if self._models.get(request.model) is model:
                    raise
            else:
                return model, sequences


class Events:
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


def _beginning(path: str, known: Container[str]) -> str:
    name = re.split(r"[.\[]", path, maxsplit=1)[0]
    return name if name in known else "unknown"


def error_of(event: Failed, engine: Engine) -> EdgeQwenError:
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
