"""Feeds systemd's watchdog for as long as the engine makes progress, so that one that hangs is replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from .stats import EngineStats


class Watched(Protocol):
    """An engine, as far as it is watched."""

    def stats(self) -> EngineStats: ...


class StepWatch:
    """Whether every engine lives: it has nothing to do, or ends steps.

    The age of the last step alone does not tell: after an idle hour, a request that has just come would look stalled.

    Args:
        engines: those there are now.
        timeout_s: how long work may wait for the end of a step, now.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        engines: Callable[[], Iterable[Watched]],
        timeout_s: Callable[[], float],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = engines
        self._timeout_s = timeout_s
        self._clock = clock
        self._seen: dict[Watched, tuple[int, float]] = {}  # steps, and since when there was work but no other step

    def alive(self) -> bool:
        """Judged by what was seen at the calls before: what it says is late by the time between two calls."""
        now_s = self._clock()
        self._seen = {engine: self._look(engine, now_s) for engine in self._engines()}
        return all(now_s - since_s <= self._timeout_s() for _, since_s in self._seen.values())

    def _look(self, engine: Watched, now_s: float) -> tuple[int, float]:
        stats = engine.stats()
        before = self._seen.get(engine)
        if before is None or stats.running + stats.queue_depth == 0 or stats.steps_total != before[0]:
            return stats.steps_total, now_s
        return before


async def feed(
    alive: Callable[[], bool],
    ping: Callable[[], None],
    interval_s: float,
    *,
    stalled: Callable[[], None] = lambda: None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Pings every `interval_s` while `alive` says so, until cancelled; `stalled` is told when that begins to fail.

    It runs on the event loop, so a loop that is stuck does not ping either.
    """
    well = True
    while True:
        if now_well := alive():
            ping()
        elif well:
            stalled()
        well = now_well
        await pause(interval_s)
