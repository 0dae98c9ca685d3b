"""Samples: shared by who asks at the same time, and compared with the right ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from unit.runtime.fake_engine import FakeEngine, make_reader, only_model

from runtime.access.clients import Clients
from runtime.engine.stats import EngineStats
from runtime.models.model import Model, ModelFacts
from runtime.sensing.board import Reading
from runtime.sensing.power import Power
from runtime.telemetry.snapshots import Snapshots


class FakeBoard:
    """A board that says what a test has it say, on a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.reads = 0
        self.joules: float | None = None
        self.since_s = 1000.0
        self.asked: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now_s

    def read(self) -> Reading:
        self.reads += 1
        self.asked()
        power = Power() if self.joules is None else Power(None, ("VDD_IN",), self.joules, self.since_s)
        return Reading(when_s=self.now_s, load_1m=float(self.reads), power=power)


class CountingEngine(FakeEngine):
    """One that has generated `tokens`."""

    tokens = 0

    def drain(self) -> None:
        pass

    def wait_idle(self, timeout_s: float) -> bool:
        return True

    def stop(self, reason: str = "") -> None:
        pass

    def stats(self) -> EngineStats:
        return replace(super().stats(), completion_tokens_total=self.tokens)


@pytest.fixture
def board() -> FakeBoard:
    return FakeBoard()


def of(board: FakeBoard, engine: FakeEngine | None = None) -> Snapshots:
    return Snapshots(only_model(engine or FakeEngine()), Clients(), board, clock=board.clock)


async def test_who_asks_at_the_same_time_shares_a_reading(board: FakeBoard) -> None:
    """Also while it is being taken; and nobody gets one that is older than wanted."""
    shared = of(board)
    board.now_s += 5
    samples = await asyncio.gather(*(shared.newest(0.05) for _ in range(20)))
    assert len({id(sample) for sample in samples}) == 1
    assert board.reads == 2  # one when it was made
    board.now_s += 0.04
    assert await shared.newest(0.05) is samples[0]
    board.now_s += 0.02
    assert await shared.newest(0.05) is not samples[0]
    assert board.reads == 3


async def test_one_who_leaves_takes_the_reading_from_nobody(board: FakeBoard) -> None:
    """The others get it all the same."""
    shared = of(board)
    go = threading.Event()
    board.asked = lambda: assert_true(go.wait(20))
    board.now_s += 5
    first, second = (asyncio.create_task(shared.newest(0.0)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    go.set()
    assert (await second).board.load_1m == 2.0


def assert_true(value: bool) -> None:
    assert value


async def test_a_board_that_hangs_is_left_out(board: FakeBoard) -> None:
    """Engine and process answer; when it answers again it is back."""
    shared = Snapshots(only_model(FakeEngine()), Clients(), board, clock=board.clock, slow_s=0.01)
    go = threading.Event()
    board.asked = lambda: assert_true(go.wait(20))
    board.now_s += 5
    late = await shared.newest(0.0)
    assert late.board == Reading(board.now_s)
    assert (late.models[0].engine.slots, late.process.threads > 0) == (4, True)
    go.set()
    while (now := await shared.newest(0.0)).board.load_1m is None:
        pass
    assert now.board.load_1m == 2.0


async def test_a_sample_is_compared_with_one_a_second_older(board: FakeBoard) -> None:
    """Others may have asked a moment ago: rates over so short a time would mean little."""
    shared = of(board)
    start = await shared.newest(0.0)
    assert shared.before(start) is start
    board.now_s += 0.3
    soon = await shared.newest(0.0)
    assert shared.before(soon).when_s == 1000.0
    for _ in range(30):
        board.now_s += 0.3
        now = await shared.newest(0.0)
        assert 1.0 <= now.when_s - shared.before(now).when_s < 2.5 or now.when_s < 1002.5
    board.now_s += 600
    now = await shared.newest(0.0)
    assert now.when_s - shared.before(now).when_s >= 600


async def test_the_past_does_not_grow(board: FakeBoard) -> None:
    """A minute of it is kept, however often somebody asks."""
    shared = of(board)
    for _ in range(2000):
        board.now_s += 0.1
        await shared.newest(0.0)
    assert len(shared._kept) <= 62


async def test_energy_goes_to_the_tokens_of_the_last_minute(board: FakeBoard) -> None:
    """Of the whole board; before that and after a gap it is not known, and without a token it is nobody's."""
    engine = CountingEngine()
    board.joules = 0.0
    shared = of(board, engine)
    assert shared.token_energy(await shared.newest(0.0)) is None
    for _ in range(100):
        board.now_s += 1
        board.joules += 5.0
        engine.tokens += 10
        now = await shared.newest(0.0)
    energy = shared.token_energy(now)
    assert energy is not None
    assert (energy.joules_per_token, energy.window_s) == (pytest.approx(0.5), pytest.approx(60.0, abs=1))
    for _ in range(100):
        board.now_s += 1
        board.joules += 2.0
        now = await shared.newest(0.0)
    assert shared.token_energy(now) is None
    board.now_s, board.joules, board.since_s = board.now_s + 1, 0.0, board.now_s + 1
    engine.tokens += 10
    assert shared.token_energy(await shared.newest(0.0)) is None
    board.now_s, board.joules = board.now_s + 1, 3.0
    engine.tokens += 2
    energy = shared.token_energy(await shared.newest(0.0))
    assert energy is not None
    assert (energy.joules_per_token, energy.window_s) == (1.5, 1.0)
    board.joules = None
    board.now_s += 1
    assert shared.token_energy(await shared.newest(0.0)) is None


async def test_a_model_that_leaves_takes_its_tokens_along(board: FakeBoard) -> None:
    """What comes in its place has generated all that it has generated since."""
    board.joules = 0.0
    first, second = CountingEngine(), CountingEngine()
    models = only_model(first)
    shared = Snapshots(models, Clients(), board, clock=board.clock)
    first.tokens = 1000
    board.now_s, board.joules = board.now_s + 1, 10.0
    assert shared.token_energy(await shared.newest(0.0)) is not None
    models.add(Model(second, make_reader(), ModelFacts("other")))
    await models.unload("tiny")
    second.tokens = 10
    board.now_s, board.joules = board.now_s + 1, 20.0
    energy = shared.token_energy(await shared.newest(0.0))
    assert energy is not None
    assert energy.joules_per_token == 2.0
