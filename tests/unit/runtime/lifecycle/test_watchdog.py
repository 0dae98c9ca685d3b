"""When systemd's watchdog is fed, and when no longer."""

from __future__ import annotations

import asyncio

import pytest

from runtime.lifecycle.watchdog import feed


async def test_pings_stop_with_life_and_come_back() -> None:
    """One ping for each time that the predicate says yes, and one word when it stops saying so."""
    said = iter([True, True, False, False, True, False])
    pings: list[float] = []
    stalls: list[str] = []

    async def pause(seconds: float) -> None:
        assert seconds == 15

    with pytest.raises(RuntimeError):  # the script of what it says is over
        await asyncio.create_task(
            feed(lambda: next(said), lambda: pings.append(1), 15, stalled=lambda: stalls.append("x"), pause=pause)
        )
    assert (len(pings), len(stalls)) == (3, 2)
