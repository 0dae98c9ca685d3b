"""Counts between bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.histogram import Histogram

BOUNDS = (0.5, 1.0, 2.0)


def test_a_value_at_a_bound_is_counted_below_it() -> None:
    """As Prometheus and OpenTelemetry have it: a bound is the largest value of its bucket."""
    histogram = Histogram(BOUNDS)
    for value in (0.0, 0.5, 0.6, 2.0, 2.1, 99.0):
        histogram.observe(value)
    read = histogram.read()
    assert (read.counts, read.count, read.bounds) == ((2, 1, 1, 2), 6, BOUNDS)
    assert read.total == 0.5 + 0.6 + 2.0 + 2.1 + 99.0


def test_a_reading_stays_as_it_was() -> None:
    histogram = Histogram(BOUNDS)
    before = histogram.read()
    histogram.observe(1.0)
    assert (before.count, histogram.read().count) == (0, 1)


@given(st.lists(st.floats(-10, 10)))
def test_nothing_is_lost_and_each_count_is_of_its_bucket(values: list[float]) -> None:
    """The counts up to a bound are those of the values up to it."""
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    counts = histogram.read().counts
    for at, bound in enumerate(BOUNDS):
        assert sum(counts[: at + 1]) == sum(value <= bound for value in values)
    assert sum(counts) == len(values)
