"""Whether the engine gets on: when it last did, and how often in a row it failed. Pure: the caller tells the time."""

from __future__ import annotations


class Progress:
    """Noted by the engine, read by anybody, without a lock: whoever asks must not hang with it."""

    def __init__(self) -> None:
        self._since_s = 0.0
        self.failures = 0
        """Steps that failed since the last that worked."""

    def arrived(self, now_s: float) -> None:
        """Work came when there was none."""
        self._since_s = now_s

    def worked(self, now_s: float) -> None:
        """A step has computed something."""
        self._since_s = now_s
        self.failures = 0

    def failed(self, now_s: float) -> None:
        """A step has failed: the engine runs, though it gives nothing."""
        self._since_s = now_s
        self.failures += 1

    def rested(self, now_s: float) -> None:
        """It had nothing to compute, or paused as it was told to."""
        self._since_s = now_s

    def age_s(self, now_s: float) -> float:
        """Since it last got on, or was given something to do."""
        return max(0.0, now_s - self._since_s)
