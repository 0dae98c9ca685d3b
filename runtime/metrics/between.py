"""Between two scrapes: watts become joules only where somebody reads them every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edgeqwen.v1 import telemetry_pb2 as pb

READ_EVERY_S = 5.0
READS = 60


class BetweenScrapes:
    """Goes on reading for some minutes after a scrape, on boards that tell their power.

    Args:
        read: takes a reading, which whoever keeps readings keeps.
        every_s: between two of them, in seconds.
        reads: how many after the last scrape.
    """

    def __init__(
        self, read: Callable[[], Awaitable[pb.Snapshot]], *, every_s: float = READ_EVERY_S, reads: int = READS
    ) -> None:
        self._read = read
        self._every_s = every_s
        self._reads = reads
        self._left = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def active(self) -> bool:
        """Whether it will read again."""
        return self._task is not None

    def scraped(self, snapshot: pb.Snapshot) -> None:
        """Somebody has just got `snapshot`."""
        self._left = self._reads if snapshot.machine.rails else 0
        if self._left and self._task is None:
            self._task = asyncio.create_task(self._go_on())

    def stop(self) -> None:
        """Reads no more."""
        if self._task is not None:
            self._task.cancel()

    async def _go_on(self) -> None:
        while self._left:
            await asyncio.sleep(self._every_s)
            self._left -= 1
            await self._read()
        self._task = None
