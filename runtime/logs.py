"""Logging: one event a line on stderr, JSON for machines, columns for people. What libraries log looks the same."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

_RICH_IS_LOADED = "rich" in sys.modules
if not _RICH_IS_LOADED:
    sys.modules["rich"] = None  # type: ignore[assignment]  # structlog would load 5 MB that nothing here uses
import structlog  # noqa: E402

if not _RICH_IS_LOADED:
    del sys.modules["rich"]

Format = Literal["auto", "json", "console"]

_FIRST = ("timestamp", "level", "event")


def configure(log_format: Format, level: str, stream: TextIO | None = None) -> None:
    """Sets structlog and the standard library's logging up, to write to `stream`; None is stderr.

    `auto` is console on a terminal and JSON elsewhere. Below `level` nothing is written; libraries are heard from
    warnings on.
    """
    stream = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    common: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last = _renderers(log_format, stream)
    structlog.configure(
        processors=[*common, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,  # a logger may be made before this is called
    )
    handler = logging.StreamHandler(stream)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=[remove, *last]))
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
    logging.captureWarnings(True)


def _renderers(log_format: Format, stream: TextIO) -> list[structlog.typing.Processor]:
    if log_format == "console" or (log_format == "auto" and stream.isatty()):
        plain = structlog.dev.plain_traceback  # the others show local variables: what users wrote
        return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    return [structlog.processors.format_exc_info, _ordered, structlog.processors.JSONRenderer(ensure_ascii=False)]


def _ordered(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """When and what first, for those who read JSON with their eyes."""
    return {key: event[key] for key in _FIRST if key in event} | {
        key: value for key, value in event.items() if key not in _FIRST
    }
