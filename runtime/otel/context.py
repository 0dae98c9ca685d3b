"""Which trace of a caller a call belongs to: set by what takes calls in, and read when a request is submitted."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

_NAMES = ("traceparent", "tracestate")


@dataclass(frozen=True)
class TraceContext:
    """The two headers of W3C Trace Context, as they came; whoever reads them checks them."""

    traceparent: str
    tracestate: str = ""


_CONTEXT: ContextVar[TraceContext | None] = ContextVar("trace_context", default=None)


def current() -> TraceContext | None:
    """None: the caller traces nothing, or nobody looked."""
    return _CONTEXT.get()


def context_of(headers: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    """That of a call with these headers, whose names are in lower case; None if they have none."""
    found = {name: str(value) for name, value in headers if name in _NAMES}
    return TraceContext(**found) if "traceparent" in found else None


def enter(context: TraceContext | None) -> None:
    """From here on, this task's requests belong to `context`."""
    _CONTEXT.set(context)
