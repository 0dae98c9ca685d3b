"""Says what happens often only so often."""

from __future__ import annotations

import time
from collections.abc import Callable


class Seldom:
    """Lets some of many through. Who floods the daemon must not fill its disk with lines.

    Args:
        most: so many in each `window_s`.
        clock: monotonic seconds.
    """

    def __init__(self, most: int = 10, window_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._window_s, self._clock = most, window_s, clock
        self._until_s = clock() + window_s
        self._count = 0

    def passes(self) -> int | None:
        """None to keep silent; else to speak, and how many were kept silent about since the last time."""
        now_s, silent = self._clock(), 0
        if now_s >= self._until_s:
            silent = max(0, self._count - self._most)
            self._until_s, self._count = now_s + self._window_s, 0
        self._count += 1
        return silent if self._count <= self._most else None
