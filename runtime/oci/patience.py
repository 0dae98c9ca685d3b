"""How long is waited after a failure, and how often."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

_FIRST_S, _LONGEST_S, _LONGEST_ASKED_S = 0.5, 30.0, 120.0


@dataclass(frozen=True)
class Patience:
    """What is done about failures that may pass.

    Args:
        retries: how often in a row something is tried again without any progress.
        draw: a random number from 0 to 1, so that a fleet that was cut off together does not come back together.
    """

    retries: int = 5
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random

    def wait(self, failures: int, retry_after_s: float | None = None) -> None:
        """Waits after the given number of failures in a row, at least 1.

        Half a second, doubled with each failure up to 30 s, the second half of it at random. What a registry asks for
        counts where it is longer, up to two minutes.
        """
        half_s = min(_LONGEST_S, _FIRST_S * 2 ** min(failures - 1, 10)) / 2
        asked_s = min(retry_after_s or 0.0, _LONGEST_ASKED_S)
        self.sleep(max(asked_s, half_s) + half_s * self.draw())
