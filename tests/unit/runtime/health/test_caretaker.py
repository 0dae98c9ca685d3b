"""Health, heat and power of engines that run on a scripted session."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ScriptedSession, no_models
from unit.runtime.engine.test_engine import TIMEOUT_S, Inbox
from unit.runtime.engine.test_progress import Clock, ThreadsSession, make_engine
from unit.runtime.fake_engine import make_reader

from runtime.engine.engine import Engine
from runtime.engine.sequence import Failed, Request
from runtime.health.caretaker import FAILURES, Caretaker, hottest_c
from runtime.health.health import Health
from runtime.models.model import Model, ModelFacts
from runtime.sensing.board import Board, Reading
from runtime.sensing.gpu import Gpu
from runtime.sensing.temperature import Temperature

STALL_S = 30.0


class RecordingHealth(Health):
    """Keeps what it was last told of each model."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, bool] = {}

    async def follow(self, models) -> None:  # type: ignore[no-untyped-def]
        self.models = dict(models)
        await super().follow(models)


def reading(celsius: float | None, throttled: tuple[str, ...] | None = None) -> Reading:
    temperatures = () if celsius is None else (Temperature("cpu-thermal", celsius),)
    return Reading(0.0, temperatures, throttled)


class Care:
    """A caretaker of some engines, by the names of their models."""

    def __init__(self, clock: Clock, **changes) -> None:  # type: ignore[no-untyped-def]
        self.models, self.health = no_models(), RecordingHealth()
        self.warnings: list[tuple[str, str]] = []
        self.taker = Caretaker(self.models, self.health, stall_timeout_s=STALL_S, clock=clock, **changes)

    def add(self, name: str, session: ScriptedSession, clock: Clock) -> Engine:
        """Starts an engine."""
        engine = make_engine(session, clock)
        self.models.add(Model(engine, make_reader(), ModelFacts(name)))
        return engine

    async def close(self) -> None:
        await self.taker.stop()
        await self.models.close()


async def until(condition: Callable[[], bool]) -> None:
    """Returns once that is so; the loop goes on meanwhile."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_model_that_stalls_does_not_serve_until_it_gets_on(clock: Clock) -> None:
    """And only that one; the watchdog's question has the same answer."""
    inside, leave = threading.Event(), threading.Event()
    session = ScriptedSession()

    def hang() -> None:
        inside.set()
        assert leave.wait(TIMEOUT_S)

    session.during_run = hang
    care = Care(clock)
    stuck = care.add("stuck", session, clock)
    care.add("well", ScriptedSession(), clock)
    inbox = Inbox()
    stuck.submit(Request((1, 2), 2), inbox)
    await asyncio.to_thread(inside.wait, TIMEOUT_S)
    await care.taker.look()
    assert care.health.models == {"stuck": True, "well": True}
    assert care.taker.alive()
    clock.now_s += STALL_S + 1
    await care.taker.look()
    assert care.health.models == {"stuck": False, "well": True}
    assert not care.taker.alive()
    leave.set()
    await asyncio.to_thread(inbox.all)
    await care.taker.look()
    assert care.health.models == {"stuck": True, "well": True}
    await care.models.unload("stuck")
    await care.taker.look()
    assert care.health.models == {"well": True}
    await care.close()


async def test_a_model_that_always_fails_does_not_serve_until_one_step_works(clock: Clock) -> None:
    """It is tried by itself, as nobody sends requests to what does not serve."""
    session = ScriptedSession()
    care = Care(clock)
    engine = care.add("m", session, clock)
    for count in range(1, FAILURES + 1):
        session.fail_next = "broken"
        inbox = Inbox()
        engine.submit(Request((1, 2), 2), inbox)
        assert isinstance((await asyncio.to_thread(inbox.all))[-1], Failed)
        await care.taker.look()
        assert care.health.models == {"m": count < FAILURES}
    await care.taker.start()
    await until(lambda: engine.failures == 0)
    await care.taker.look()
    assert care.health.models == {"m": True}
    await care.close()


async def test_heat_lowers_every_engine_by_its_own_levels(clock: Clock) -> None:
    """One with threads to lower, and one that can only rest; a model that comes later is lowered at once."""
    care = Care(clock)
    threads = care.add("threads", ThreadsSession(), clock)
    await care.taker.look()
    for _ in range(12):
        care.taker.note(reading(86.0))
        clock.now_s += 1
    plain = care.add("plain", ScriptedSession(), clock)
    await care.taker.look()
    assert (threads.throttled.level, threads.throttled.threads, threads.throttled.share) == (2, 2, 1.0)
    assert (plain.throttled.level, plain.throttled.threads, plain.throttled.share) == (2, None, 0.5)
    assert plain.throttled.reason == "the board was at 86.0 C, its limit is 85 C"
    for _ in range(100):
        care.taker.note(reading(60.0))
        clock.now_s += 1
    assert (threads.throttled, plain.throttled) == (threads.levels[0], plain.levels[0])
    await care.close()


async def test_low_power_by_call_and_by_battery(clock: Clock) -> None:
    """Half of the power, for as long as one of them wants it; and each says why."""
    care = Care(clock, low_power_battery_percent=20.0)
    engine = care.add("m", ThreadsSession(), clock)
    await care.taker.look()
    care.taker.note(reading(50.0), 19.0)
    assert (engine.throttled.level, care.taker.power_mode) == (2, "normal")
    assert engine.throttled.reason == care.taker.saving_power == "the battery has 19 %, and below 20 % power is saved"
    care.taker.set_power_mode("low", by="test")
    care.taker.note(reading(50.0), None)
    assert (engine.throttled.level, engine.throttled.reason) == (2, "low power was asked for")
    care.taker.set_power_mode("normal", by="test")
    assert engine.throttled == engine.levels[0]
    await care.close()


class Looks:
    """Counts how often the board is read."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Reading:
        self.count += 1
        return reading(50.0)


@pytest.fixture
async def looked_after(clock: Clock) -> AsyncIterator[tuple[Engine, Looks]]:
    """An engine that runs, has nothing to do, and is looked after."""
    looks = Looks()
    care = Care(clock, read=looks)
    engine = care.add("m", ScriptedSession(), clock)
    await care.taker.start()
    yield engine, looks
    await care.close()


async def test_nothing_is_looked_at_while_nothing_runs(looked_after: tuple[Engine, Looks]) -> None:
    """However often the loop turns."""
    for _ in range(1000):
        await asyncio.sleep(0)
    assert looked_after[1].count == 0


async def test_work_wakes_it(looked_after: tuple[Engine, Looks]) -> None:
    """From whichever thread it comes."""
    engine, looks = looked_after
    inbox = Inbox()
    await asyncio.to_thread(engine.submit, Request((1, 2), 200), inbox)
    await until(lambda: looks.count > 0)
    await asyncio.to_thread(inbox.all)


async def test_the_board_itself_is_read(clock: Clock, tmp_path: Path) -> None:
    """Its hottest sensor lowers the engine; one that vanishes or breaks meanwhile changes nothing; and cool, it comes
    back."""
    sensor = tmp_path / "sys/class/thermal/thermal_zone0/temp"
    sensor.parent.mkdir(parents=True)
    (sensor.parent / "type").write_text("cpu-thermal\n")
    care = Care(clock, read=Board(tmp_path, clock=clock).read)
    engine = care.add("m", ThreadsSession(), clock)
    await care.taker.look()

    async def see(text: str | None, seconds: int) -> int:
        """The level after so many readings, a second apart."""
        sensor.unlink(missing_ok=True)
        if text is not None:
            sensor.write_text(text)
        for _ in range(seconds):
            clock.now_s += 1
            await care.taker.fresh(TIMEOUT_S)
        return engine.throttled.level

    assert [await see("84900", 20), await see("85000", 2), await see(None, 100), await see("hot", 100)] == [0, 1, 1, 1]
    assert [await see("79900", 30), await see("79900", 2)] == [1, 0]
    await care.close()


def test_a_gpu_counts_too() -> None:
    """Whichever is hotter."""
    cool, hot = Gpu("a", celsius=40.0), Gpu("b", celsius=88.0)
    assert hottest_c(Reading(0.0)) is hottest_c(Reading(0.0, gpus=(Gpu("c"),))) is None
    assert hottest_c(replace(reading(50.0), gpus=(cool, hot))) == 88.0
    assert hottest_c(replace(reading(50.0), gpus=(cool,))) == 50.0


async def test_a_sensor_that_hangs_holds_up_nobody(clock: Clock) -> None:
    """Health goes on, and who asks for a reading is told that there is none."""
    leave = threading.Event()

    def hang() -> Reading:
        assert leave.wait(TIMEOUT_S)
        return reading(50.0)

    care = Care(clock, read=hang)
    care.add("m", ScriptedSession(), clock)
    assert await care.taker.fresh(0.01) is None
    await care.taker.look()
    assert care.health.models == {"m": True}
    leave.set()
    assert await care.taker.fresh(TIMEOUT_S) == reading(50.0)
    await care.close()


async def test_a_model_that_has_left_is_held_no_longer() -> None:
    """Not even until the next look: the next model may need its memory."""
    clock = Clock()
    care = Care(clock)
    await care.taker.start()
    try:
        session = ScriptedSession()
        gone = weakref.ref(session)
        care.add("tiny", session, clock)
        await care.taker.look()
        del session
        await care.models.unload("tiny")
        gc.collect()
        assert gone() is None
    finally:
        await care.close()
