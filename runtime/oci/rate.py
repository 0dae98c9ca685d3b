"""How fast bytes may come."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_BURST_S = 0.25


def parse_bytes(text: str) -> int:
    """As curl has them: `500K`, `2M`, `1.5G`, in powers of 1024. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)([KMG]?)", text, re.IGNORECASE)
    if found is None:
        raise ValueError("looks like 500K, 2M or 1.5G: bytes")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def parse_rate(text: str) -> int:
    """Bytes a second. Raises ValueError."""
    if (rate := parse_bytes(text)) < 1:
        raise ValueError("looks like 500K, 2M or 1.5M: bytes a second, and no less than one")
    return rate


class Rate:
    """A token bucket: over any time, no more than `bytes_per_s` times that and a quarter of a second's burst.

    One that is told of more bytes than there are tokens waits until they would have come.
    """

    def __init__(
        self,
        bytes_per_s: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_per_s, self._clock, self._sleep = bytes_per_s, clock, sleep
        self._tokens = self._most = bytes_per_s * _BURST_S
        self._then_s = clock()

    def take(self, count: int) -> None:
        """Returns when `count` further bytes may pass."""
        now_s = self._clock()
        self._tokens = min(self._most, self._tokens + (now_s - self._then_s) * self._bytes_per_s) - count
        self._then_s = now_s
        if self._tokens < 0:
            self._sleep(-self._tokens / self._bytes_per_s)
