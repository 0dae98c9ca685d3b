"""Logging: one event a line on stderr, JSON for machines, columns for people. What libraries log looks the same."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal, Protocol, TextIO, cast

_RICH_IS_LOADED = "rich" in sys.modules
if not _RICH_IS_LOADED:
    sys.modules["rich"] = None  # type: ignore[assignment]  # structlog would load 5 MB that nothing here uses
import structlog  # noqa: E402

if not _RICH_IS_LOADED:
    del sys.modules["rich"]

from .outlet import Outlet  # noqa: E402

Format = Literal["auto", "json", "console"]

_FIRST = ("timestamp", "level", "event")


_COMMON: tuple[structlog.typing.Processor, ...] = (
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


class Stream(Protocol):
    """What of a text stream is used here."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


def open_stderr(log_format: Format) -> Outlet:
    """Stderr, so that nobody waits for whoever reads it; nowhere, if it is closed."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        descriptor = None

    def lost(lines: int) -> str:
        event: Any = {"event": "log lines lost", "lines": lines}
        for processor in (*_COMMON, *_renderers(log_format, outlet)):
            event = processor(None, "warning", event)
        return f"{event}\n"

    outlet = Outlet(descriptor, lost)
    return outlet


def configure(log_format: Format, level: str, stream: Stream) -> None:
    """Sets structlog and the standard library's logging up, to write to `stream`.

    `auto` is console on a terminal and JSON elsewhere. Below `level` nothing is written; libraries are heard from
    warnings on.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    last = _renderers(log_format, stream)
    structlog.configure(
        processors=[*_COMMON, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, stream)),
        cache_logger_on_first_use=False,  # a logger may be made before this is called
    )
    handler = logging.StreamHandler(cast(TextIO, stream))
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_COMMON, processors=[remove, *last]))
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
    logging.captureWarnings(True)


def _renderers(log_format: Format, stream: Stream) -> list[structlog.typing.Processor]:
    if log_format == "console" or (log_format == "auto" and stream.isatty()):
        plain = structlog.dev.plain_traceback  # the others show local variables: what users wrote
        return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    return [structlog.processors.format_exc_info, _ordered, structlog.processors.JSONRenderer(ensure_ascii=False)]


def _ordered(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """When and what first, for those who read JSON with their eyes."""
    return {key: event[key] for key in _FIRST if key in event} | {
        key: value for key, value in event.items() if key not in _FIRST
    }
