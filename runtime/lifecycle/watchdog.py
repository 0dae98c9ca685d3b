"""Feeds systemd's watchdog for as long as the engine makes progress, so that one that hangs is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


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
