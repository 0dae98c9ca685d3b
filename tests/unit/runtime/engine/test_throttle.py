"""Levels that each take less than the one before."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.throttle import half_power, ladder

SIZES = st.tuples(st.integers(1, 64), st.one_of(st.none(), st.integers(1, 256)))


@pytest.mark.parametrize(
    ("rows", "threads", "expected"),
    [
        (4, 4, [(4, 4, 1.0), (3, 3, 1.0), (2, 2, 1.0), (1, 1, 1.0), (1, 1, 0.5), (1, 1, 0.25)]),
        (8, 16, [(8, 16, 1.0), (6, 12, 1.0), (4, 8, 1.0), (2, 4, 1.0), (1, 1, 1.0), (1, 1, 0.5), (1, 1, 0.25)]),
        (8, None, [(8, None, 1.0), (6, None, 0.75), (4, None, 0.5), (2, None, 0.25)]),
        (1, 1, [(1, 1, 1.0), (1, 1, 0.5), (1, 1, 0.25)]),
    ],
)
def test_threads_go_first_then_time(rows: int, threads: int | None, expected: list[tuple[object, ...]]) -> None:
    """Where the backend has threads to lower; else it rests at once. Rows keep to what is left."""
    assert [(each.rows, each.threads, each.share) for each in ladder(rows, threads)] == expected


@given(SIZES)
def test_every_level_takes_less(size: tuple[int, int | None]) -> None:
    """Of threads times share; rows never grow, and one is always left."""
    rows, threads = size
    levels = ladder(rows, threads)
    power = [(each.threads or 1) * each.share for each in levels]
    assert all(left > right for left, right in pairwise(power))
    assert [each.level for each in levels] == list(range(len(levels)))
    assert all(1 <= right.rows <= left.rows <= rows for left, right in pairwise(levels))


@given(SIZES)
def test_half_power_is_half_or_less_and_no_less_than_needed(size: tuple[int, int | None]) -> None:
    levels = ladder(*size)
    power = [(each.threads or 1) * each.share / (levels[0].threads or 1) for each in levels]
    half = half_power(levels)
    assert power[half] <= 0.5 < power[half - 1]
