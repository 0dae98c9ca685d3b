"""How often a value fell where: counts between fixed bounds, since the start. Pure.

Other than quantiles of a window, such counts may be added up over boards and over any time.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True)
class Distribution:
    """One reading of a histogram.

    `counts[i]` values were at most `bounds[i]` and above the bound before it; the last count, one more than there are
    bounds, is of those above all of them. `total` is the sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    def __post_init__(self) -> None:
        assert len(self.counts) == len(self.bounds) + 1
        assert list(self.bounds) == sorted(set(self.bounds))

    @property
    def count(self) -> int:
        """Of all values."""
        return sum(self.counts)


class Histogram:
    """Counts values between `bounds`, which rise."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def read(self) -> Distribution:
        return Distribution(self._bounds, tuple(self._counts), self._total)
