"""What an engine tells of its requests, as metrics and spans.

The engine only hands it over: the event loop makes spans of it, between two messages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..engine.observer import Ended, Observer
from ..engine.sequence import Request, Sequence
from .context import TraceContext, current
from .instruments import Instruments, operation, request_attributes, span_attributes

_PROPAGATOR = TraceContextTextMapPropagator()


class RequestRecorder(Observer):
    """Records the requests of one model.

    Args:
        loop: where the work is done.
        clock: that of the engine, monotonic seconds.
        unix_ns: the time of day.
    """

    def __init__(
        self,
        model: str,
        instruments: Instruments,
        tracer: Tracer,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Callable[[], float] = time.monotonic,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._model = model
        self._instruments = instruments
        self._tracer = tracer
        self._loop = loop
        self._clock = clock
        self._unix_ns = unix_ns
        self._contexts: dict[Sequence, TraceContext] = {}

    def arrived(self, sequence: Sequence) -> None:
        if (context := current()) is not None:
            self._contexts[sequence] = context

    def refused(self, request: Request, reason: str) -> None:
        self._later(self._record_refusal, request, reason, current())

    def ended(self, ended: Ended) -> None:
        self._later(self._record, ended, self._contexts.pop(ended.sequence, None))

    def _later(self, call: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to send it
            self._loop.call_soon_threadsafe(call, *arguments)

    def _record_refusal(self, request: Request, reason: str, caller: TraceContext | None) -> None:
        attributes = {**request_attributes(self._model, request), "error.type": reason}
        self._instruments.refused(attributes)
        name = f"{operation(request)} {self._model}"
        span = self._tracer.start_span(name, _parent(caller), SpanKind.SERVER, attributes)
        span.set_status(Status(StatusCode.ERROR, reason))
        span.end()

    def _record(self, ended: Ended, caller: TraceContext | None) -> None:
        attributes = request_attributes(self._model, ended.sequence.request)
        self._instruments.ended(ended, attributes)
        now_ns, now_s = self._unix_ns(), self._clock()  # read together: the time of day may have been set meanwhile

        def unix_ns(when_s: float) -> int:
            return now_ns - round((now_s - when_s) * 1e9)

        end_ns = unix_ns(ended.ended_s)
        span = self._tracer.start_span(
            f"{operation(ended.sequence.request)} {self._model}",
            _parent(caller),
            SpanKind.SERVER,
            {**attributes, **span_attributes(ended)},
            start_time=unix_ns(ended.arrived_s),
        )
        if ended.outcome != "finished":
            span.set_status(Status(StatusCode.ERROR, ended.outcome))
        within = set_span_in_context(span, Context())
        begins = {"queue": ended.arrived_s, "prefill": ended.started_s, "decode": ended.first_token_s}
        phases = [(name, unix_ns(when_s)) for name, when_s in begins.items() if when_s is not None]
        for (name, start_ns), (_, until_ns) in zip(phases, [*phases[1:], ("", end_ns)], strict=True):
            self._tracer.start_span(name, within, start_time=start_ns).end(until_ns)
        span.end(end_ns)


def _parent(caller: TraceContext | None) -> Context:
    """The caller's span, if its headers are what the standard says; else none, and a new trace begins."""
    if caller is None:
        return Context()
    carrier = {"traceparent": caller.traceparent, "tracestate": caller.tracestate}
    return _PROPAGATOR.extract({name: value for name, value in carrier.items() if value}, Context())
