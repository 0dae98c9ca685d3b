"""Metric families from rows of values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from ..engine.histogram import Distribution

Row = tuple[Sequence[str], float]
"""Values of the labels, and the value."""


def gauge(name: str, said: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    """What goes up and down."""
    family = GaugeMetricFamily(name, said, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def counter(name: str, said: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    """What only grows, until it starts again."""
    family = CounterMetricFamily(name, said, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def histogram(
    name: str, said: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Distribution]]
) -> Metric:
    """What is distributed."""
    family = HistogramMetricFamily(name, said, labels=labels)
    for values, its in rows:
        bounds = [*map(floatToGoString, its.bounds), "+Inf"]
        family.add_metric(values, list(zip(bounds, accumulate(its.counts), strict=True)), its.total)
    return family
