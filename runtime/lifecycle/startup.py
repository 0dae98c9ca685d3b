"""How far the daemon has come in starting, told to systemd, which waits longer only for a start that makes progress."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..notify import extend_timeout

PATIENCE_S = 60.0
"""How long a start may be silent; TimeoutStartSec of the unit is the same."""

_CANARY_S = 300.0  # the slowest board that a package is for
_SLOWEST_READ = 5e6  # bytes a second: an old SD card in a slow reader
_BETWEEN_S = 5.0


class Startup:
    """Passes progress on, and no more often than every 5 s. Not a byte of a file read for a minute is no progress.

    Args:
        tell: takes lines of sd_notify.
        clock: monotonic seconds.
    """

    def __init__(self, tell: Callable[..., None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._checked_bytes = 0
        self._told_s: float | None = None

    def checked(self, count: int) -> None:
        """So many more bytes of the package were read and compared with their digest."""
        self._checked_bytes += count
        now_s = self._clock()
        if self._told_s is None or now_s - self._told_s >= _BETWEEN_S:
            self._told_s = now_s
            self._tell(
                f"STATUS=checked {self._checked_bytes // 1_000_000} MB of the package", extend_timeout(PATIENCE_S)
            )

    def loading(self, weights_bytes: int) -> None:
        """The model is loaded now, which does not say how far it is: it gets what the slowest storage takes."""
        seconds = PATIENCE_S + weights_bytes / _SLOWEST_READ
        self._tell(f"STATUS=loading {weights_bytes // 1_000_000} MB of weights", extend_timeout(seconds))

    def trying(self) -> None:
        """The model answers its golden transcript, and is measured."""
        self._tell("STATUS=trying a package", extend_timeout(_CANARY_S))
