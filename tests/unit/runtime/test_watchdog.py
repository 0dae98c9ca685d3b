"""When systemd's watchdog is fed, and when no longer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from unit.runtime.fake_engine import FakeEngine

from runtime.stats import EngineStats
from runtime.watchdog import StepWatch, feed


class Counters:
    """Of an engine, set by hand."""

    def __init__(self) -> None:
        self.now = replace(FakeEngine().stats(), running=0, queue_depth=0, steps_total=0)

    def stats(self) -> EngineStats:
        return self.now


class Board:
    """Engines, of which the first is worked with, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.engines = [Counters()]
        self.watch = StepWatch(lambda: self.engines, lambda: 30.0, clock=lambda: self.now_s)

    def alive_after(self, seconds: float, **stats: int) -> bool:
        self.now_s += seconds
        self.engines[0].now = replace(self.engines[0].now, **stats)
        return self.watch.alive()


def test_an_engine_with_nothing_to_do_is_alive() -> None:
    """However long ago its last step was; a request that comes then has the whole time for its first step."""
    board = Board()
    assert board.alive_after(3600)
    assert board.alive_after(3600)
    assert board.alive_after(29, running=1)
    assert not board.alive_after(2)


@pytest.mark.parametrize("work", [{"running": 1}, {"queue_depth": 1}])
def test_work_without_a_step_is_no_life(work: dict[str, int]) -> None:
    """Neither for rows that run nor for requests that wait; a step that ends brings it back."""
    board = Board()
    assert board.alive_after(0)
    assert board.alive_after(15, **work)
    assert board.alive_after(15)
    assert not board.alive_after(30)
    assert board.alive_after(15, steps_total=1)
    assert not board.alive_after(31)


def test_one_engine_that_hangs_is_enough() -> None:
    """Whatever others do; once its model is gone, it is not asked about any more."""
    board = Board()
    board.engines.append(hung := Counters())
    hung.now = replace(hung.now, running=1)
    assert board.alive_after(0)
    assert not board.alive_after(31, running=1, steps_total=1)
    board.engines.remove(hung)
    assert board.alive_after(15, steps_total=2)


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
