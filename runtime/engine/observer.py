"""Who hears of each request that an engine takes and ends: for traces, and for whatever counts one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .sequence import FinishReason, Request, Sequence

Outcome = Literal["finished", "cancelled", "failed", "refused"]
"""`refused`: after it had been let in, it had to leave the queue, for others or because it was too late."""


@dataclass(frozen=True)
class Ended:
    """A request that has ended. Times are seconds on the engine's monotonic clock; None: it did not come so far.

    Args:
        reason: why a request that `finished` did.
        started_s: when the first part of its prompt was scheduled.
    """

    sequence: Sequence
    outcome: Outcome
    reason: FinishReason | None
    arrived_s: float
    started_s: float | None
    first_token_s: float | None
    ended_s: float

    @property
    def duration_s(self) -> float:
        return self.ended_s - self.arrived_s

    @property
    def per_token_s(self) -> float | None:
        """From the first token to the end, for each token after the first; None if there is none."""
        more = len(self.sequence.output) - 1
        if self.first_token_s is None or more < 1:
            return None
        return (self.ended_s - self.first_token_s) / more


class Observer:
    """Hears nothing; one that does overrides what it wants to hear.

    Called under the engine's lock, on whatever thread: it must be quick, not block, and not call the engine.
    """

    def arrived(self, sequence: Sequence) -> None:
        """The engine takes a request, in the task that submits it."""

    def refused(self, request: Request, reason: str) -> None:
        """The engine does not take a request, in the task that submits it."""

    def ended(self, ended: Ended) -> None:
        """A request that was taken has ended, however it did."""
