"""Looks after the engines while they work: health follows their progress, and heat and power lower them.

Once a second, and not at all while nothing runs and nothing is out of order: then work that comes wakes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, Protocol

import structlog

from ..engine.engine import Engine
from ..engine.sequence import Request
from ..errors import EdgeQwenError
from ..models.model import Model
from ..models.registry import Models
from ..sensing.board import Reading
from .governor import Governor, lowered
from .health import Health

PowerMode = Literal["normal", "low"]
Warner = Callable[[], Sequence[tuple[str, str]]]
"""What somebody has to warn an operator of now, such as a certificate that expires: a sentence, and what to do."""

PERIOD_S = 1.0
DEFAULT_LIMIT_C = 85.0
"""Where no model's profile names a limit."""
FAILURES = 3
"""So many steps that fail one after the other are no accident: the model does not serve until one works."""
_PROBE_S = 10.0  # between tries of a model that fails while nobody asks
_BATTERY_S = 30.0  # between looks at a battery while nothing runs


class BatteryReader(Protocol):
    """Tells the charge in percent while a battery is what feeds the board; None else."""

    def __call__(self) -> float | None: ...


def hottest_c(reading: Reading) -> float | None:
    """Of the sensors that count, and of what computes beside the processor."""
    gpus = (gpu.celsius for gpu in reading.gpus)
    return max((each for each in (reading.hottest_c, *gpus) if each is not None), default=None)


class Caretaker:
    """Cares for the engines of `models`, those too that come later.

    Args:
        health: is told which models serve.
        read: one reading of the board; may take its time, and is never called twice at once.
        stall_timeout_s: how long work may wait for the end of a step.
        battery: read only with `low_power_battery_percent`.
        low_power_battery_percent: power is saved while the battery feeds the board and has less; None: whatever it has.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        models: Models,
        health: Health,
        read: Callable[[], Reading] = lambda: Reading(0.0),
        *,
        stall_timeout_s: float = 30.0,
        battery: BatteryReader = lambda: None,
        low_power_battery_percent: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.models = models
        self.health = health
        self._read_board = read
        self._governor = Governor(DEFAULT_LIMIT_C, 0)
        self._stall_timeout_s = stall_timeout_s
        self._read_battery = battery
        self._low_percent = low_power_battery_percent
        self._clock = clock
        self._log = structlog.get_logger()
        self._warners: list[Warner] = []
        self._known: tuple[Model, ...] = ()
        self._serves: dict[str, bool] = {}
        self._asked_for: PowerMode = "normal"
        self._reading: Reading | None = None
        self._battery_percent: float | None = None
        self._probed_s = -_PROBE_S
        self._wake = asyncio.Event()
        self._measuring: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._wake_up: Callable[[], None] = lambda: None

    @property
    def limit_c(self) -> float:
        """Of the board's temperature."""
        return self._governor.limit_c

    @property
    def power_mode(self) -> PowerMode:
        """What was asked for; a battery may save power all the same."""
        return self._asked_for

    @property
    def saving_power(self) -> str:
        """Why power is saved now; empty if it is not."""
        if self._asked_for == "low":
            return "low power was asked for"
        percent, low = self._battery_percent, self._low_percent
        if percent is not None and low is not None and percent < low:
            return f"the battery has {percent:.0f} %, and below {low:g} % power is saved"
        return ""

    def stalled(self, engine: Engine) -> bool:
        """Whether it has work and has made no step for longer than it may. Never blocks."""
        return engine.stalled(self._stall_timeout_s)

    def alive(self) -> bool:
        """Whether no engine stalls. Never blocks."""
        return not any(self.stalled(model.engine) for model in self.models.loaded)

    def warn_by(self, warner: Warner) -> None:
        """Asks `warner` too, for each health report."""
        self._warners.append(warner)

    def warnings(self) -> list[tuple[str, str]]:
        """What everybody warns of now."""
        return [warning for warner in self._warners for warning in warner()]

    async def start(self) -> None:
        """Tells health, and begins to look."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        self._wake_up = wake
        self.models.when_changed(self._forget)
        await self.look()
        self._running = asyncio.create_task(self._run())

    async def drain(self) -> None:
        """Health says that requests will be refused."""
        await self.health.draining()

    async def stop(self) -> None:
        """Ends. A reading that does not come back is left behind."""
        self.models.when_changed(lambda: None)
        for model in self._known:
            model.engine.when_work_comes(lambda: None)
        for task in (self._running, self._measuring):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def set_power_mode(self, mode: PowerMode, *, by: str) -> None:
        """Saves power from the next step on, or no longer. `by` is who wants it, for the log."""
        if mode != self._asked_for:
            self._asked_for = mode
            self._log.info("power mode", mode=mode, by=by)
        self._apply()
        self._wake.set()

    async def fresh(self, timeout_s: float) -> Reading | None:
        """A reading of now, shared by all who ask meanwhile; None if the sensors take longer than `timeout_s`."""
        measuring = self._begin_to_measure()
        try:
            await asyncio.wait_for(asyncio.shield(measuring), timeout_s)
        except TimeoutError:
            return None
        return self._reading

    def set_bounds(self, stall_timeout_s: float, low_power_battery_percent: float | None) -> None:
        """As when it was made."""
        self._stall_timeout_s, self._low_percent = stall_timeout_s, low_power_battery_percent
        self._wake.set()

    async def look(self) -> None:
        """Tells health which models serve now."""
        self._meet()
        before, self._serves = self._serves, {}
        for model in self.models.ready:
            stalled = self.stalled(model.engine)
            serves = self._serves[model.name] = not stalled and model.engine.failures < FAILURES
            if serves and not before.get(model.name, True):
                self._log.info("serves again", model=model.name)
            elif not serves and before.get(model.name, True):
                reason = "no step ends" if stalled else "every step fails"
                self._log.error("does not serve", model=model.name, reason=reason)
        await self.health.follow(self._serves)

    def note(self, reading: Reading, battery_percent: float | None = None) -> None:
        """Acts on what the board says."""
        saved = self.saving_power
        self._reading, self._battery_percent = reading, battery_percent
        if bool(self.saving_power) != bool(saved):
            self._log.info("battery", saving_power=bool(self.saving_power), percent=battery_percent)
        before = self._governor.decision.level
        decision = self._governor.update(self._clock(), hottest_c(reading), reading.throttled or ())
        if decision.level > before:
            self._log.warning("heat", lowered=decision.level, reason=decision.reason)
        elif decision.level < before:
            self._log.info("heat", lowered=decision.level, reason="the board has cooled down")
        self._apply()

    def _apply(self) -> None:
        """What may be used, to each engine that does not know it yet."""
        levels = [model.engine.levels for model in self._known]
        self._governor.lowest = max((len(each) - 1 for each in levels), default=0)
        for model in self._known:
            engine = model.engine
            throttle = lowered(engine.levels, self._governor.decision, self.saving_power)
            if throttle != engine.throttled:
                engine.throttle(throttle)

    def _meet(self) -> None:
        """Takes in models that have come."""
        before, self._known = self._known, self.models.loaded
        for model in self._known:
            if model not in before:
                model.engine.when_work_comes(self._wake_up)
        if self._known != before:
            limits = [model.limit_c for model in self._known if model.limit_c is not None]
            self._governor.limit_c = min(limits, default=DEFAULT_LIMIT_C)
            self._apply()

    def _forget(self) -> None:
        """Holds no model that has left: its memory is wanted now."""
        loaded = self.models.loaded
        self._known = tuple(model for model in self._known if model in loaded)
        self._wake_up()

    async def _run(self) -> None:
        while True:
            await self._rest()
            try:
                await self.look()
                self._begin_to_measure()
                self._probe()
            except Exception:  # whatever it is, nobody else looks after health
                self._log.exception("caretaker")
            await asyncio.sleep(PERIOD_S)

    async def _rest(self) -> None:
        """Until there is something to look at."""
        self._wake.clear()
        busy = any(model.engine.has_work for model in self.models.loaded)
        if busy or self._governor.decision.level or not all(self._serves.values()):
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if self._low_percent is None else _BATTERY_S)

    def _begin_to_measure(self) -> asyncio.Task[None]:
        if self._measuring is None or self._measuring.done():
            self._measuring = asyncio.create_task(self._measure())
        return self._measuring

    async def _measure(self) -> None:
        """In a thread: sensors on a slow bus take their time, in which streams go on."""
        reading = await asyncio.to_thread(self._read_board)
        percent = None if self._low_percent is None else await asyncio.to_thread(self._read_battery)
        self.note(reading, percent)

    def _probe(self) -> None:
        """Lets a model that fails compute a token while nobody asks: its health would keep everybody away for good."""
        now_s = self._clock()
        if now_s - self._probed_s < _PROBE_S:
            return
        for model in self.models.ready:
            if model.engine.failures >= FAILURES and not model.engine.has_work:
                self._probed_s = now_s
                with suppress(EdgeQwenError):  # it may be draining
                    model.engine.submit(Request((0,), 1), lambda _event: None)
