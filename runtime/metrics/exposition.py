"""A page of metrics, in the format that the scraper likes best: text 0.0.4, or OpenMetrics 1.0.0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, Metric, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

_OPENMETRICS_TYPE = "application/openmetrics-text"
_OPENMETRICS_VERSIONS = ("", "0.0.1", "1.0.0")


@dataclass(frozen=True)
class Page:
    content_type: str
    body: bytes


class _Families(Collector):
    """What was read, as the encoders want it."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def page(families: Iterable[Metric], accept: str) -> Page:
    """Encodes them for a scraper that sends `accept`."""
    if wants_openmetrics(accept):
        body = openmetrics.generate_latest(_Families(families))  # type: ignore[no-untyped-call]
        return Page(openmetrics.CONTENT_TYPE_LATEST, body)
    return Page(CONTENT_TYPE_PLAIN_0_0_4, generate_latest(_Families(families)))


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header names OpenMetrics, in a version that we have, before plain text (RFC 9110, 12.5.1)."""
    best = {True: 0.0, False: 0.0}
    for media_range in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in media_range.split(";"))
        values = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        ours = kind == _OPENMETRICS_TYPE and values.get("version", "") in _OPENMETRICS_VERSIONS
        if ours or kind in ("text/plain", "text/*", "*/*"):
            best[ours] = max(best[ours], _quality(values.get("q", "1")))
    return best[True] > 0 and best[True] >= best[False]


def _quality(text: str) -> float:
    """A weight from 0 to 1; one that is none wants nothing."""
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0
