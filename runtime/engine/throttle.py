"""How much of what it can do the engine does: levels that each take less power than the one before. Pure.

Fewer threads come first: they take less processor time for a token, where rests only spread it. Rows go down with the
rest, so that each stream keeps about its speed; by themselves they save nothing (docs/adr/0022-heat.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_THREAD_STEPS = 4  # to one thread, in about so many steps
_SHARES = (0.5, 0.25)  # of the time, once there is one thread
_SHARES_ALONE = (0.75, 0.5, 0.25)  # where threads cannot be lowered
HALF = 0.5


@dataclass(frozen=True)
class Throttle:
    """What the engine may use.

    Args:
        level: how far it is lowered; 0 is not at all.
        reason: why, in words; empty at level 0.
        rows: requests that run at once. Those that run already go on.
        threads: of a run of the model; None where the backend does not let them be lowered.
        share: of the time that it computes, 0 to 1; it rests in the other.
    """

    level: int
    reason: str
    rows: int
    threads: int | None
    share: float


def ladder(rows: int, threads: int | None) -> tuple[Throttle, ...]:
    """The levels of an engine that has so many rows and threads, full power first. Reasons are empty."""
    counts = _thread_counts(threads) if threads else [None]
    steps = [(count, 1.0) for count in counts]
    steps += [(counts[-1], share) for share in (_SHARES if threads else _SHARES_ALONE)]
    return tuple(
        Throttle(level, "", max(1, math.ceil(rows * _capacity(count, threads) * share)), count, share)
        for level, (count, share) in enumerate(steps)
    )


def half_power(levels: tuple[Throttle, ...]) -> int:
    """The first level at which at most half of the processor time is used."""
    full = levels[0].threads
    return next(each.level for each in levels if _capacity(each.threads, full) * each.share <= HALF)


def _thread_counts(threads: int) -> list[int | None]:
    step = max(1, threads // _THREAD_STEPS)
    return [*range(threads, 1, -step), 1]


def _capacity(threads: int | None, full: int | None) -> float:
    return threads / full if threads and full else 1.0
