"""Readings between scrapes."""

from __future__ import annotations

import asyncio

from edgeqwen.v1 import telemetry_pb2 as pb
from runtime.metrics.between import BetweenScrapes

WITH_POWER = pb.Snapshot(machine=pb.MachineInfo(rails=[pb.Rail(name="VDD_IN", watts=5)]))


class Reader:
    def __init__(self) -> None:
        self.reads = 0

    async def __call__(self) -> pb.Snapshot:
        self.reads += 1
        return WITH_POWER


async def settle(between: BetweenScrapes) -> None:
    """Until it reads no more. Hangs become TimeoutErrors."""
    async with asyncio.timeout(20):
        while between.active:
            await asyncio.sleep(0)


async def test_a_board_with_power_rails_is_read_on_for_a_while() -> None:
    """Then nobody seems to want it any more; the next scrape begins anew."""
    reader = Reader()
    between = BetweenScrapes(reader, every_s=0, reads=3)
    for scrape in (1, 2):
        between.scraped(WITH_POWER)
        between.scraped(WITH_POWER)
        await settle(between)
        assert reader.reads == 3 * scrape


async def test_a_board_without_costs_nothing_between_scrapes() -> None:
    reader = Reader()
    between = BetweenScrapes(reader, every_s=0, reads=3)
    between.scraped(pb.Snapshot())
    assert not between.active
    assert reader.reads == 0


async def test_it_can_be_stopped() -> None:
    """Before it has read, and without anything having begun."""
    reader = Reader()
    between = BetweenScrapes(reader, every_s=0, reads=3)
    between.stop()
    between.scraped(WITH_POWER)
    between.stop()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reader.reads == 0
