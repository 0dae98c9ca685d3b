"""Which trace of a caller a call belongs to: set by what takes calls in, and read when a request is submitted."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

NAMES = ("traceparent", "tracestate")


@dataclass(frozen=True)
class TraceContext:
    """The two headers of W3C Trace Context, as they came; whoever reads them checks them."""

    traceparent: str
    tracestate: str = ""


_CONTEXT: ContextVar[TraceContext | None] = ContextVar("trace_context", default=None)


def current() -> TraceContext | None:
    """None: the caller traces nothing, or nobody looked."""
    return _CONTEXT.get()


def enter(context: TraceContext | None) -> None:
    """From here on, this task's requests belong to `context`."""
    _CONTEXT.set(context)
