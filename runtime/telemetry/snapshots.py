"""Readings of engines, process and board, taken when somebody asks and shared by all who ask at about the same time.

Nothing runs while nobody asks. Each caller compares two readings of its own choice, so that rates are right for each,
however many there are.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import psutil

from ..access.call_errors import CallErrors
from ..access.clients import Clients, ClientStats
from ..engine.stats import EngineStats
from ..models.model import ModelFacts
from ..models.registry import Models
from ..sensing.board import Reading

WINDOW_S = 60.0
"""How far back energy is compared with tokens."""

SPACING_S = 1.0
"""Between two readings that are kept."""

SLOW_S = 2.0
"""A board that takes longer to answer is left out of a reading."""


class Sensed(Protocol):
    """`Board`, as far as it is used here."""

    def read(self) -> Reading: ...


@dataclass(frozen=True)
class ProcessReading:
    """This process; `cpu_s` is processor time since its start."""

    pid: int
    rss_bytes: int
    cpu_s: float
    threads: int
    open_files: int


@dataclass(frozen=True)
class ModelReading:
    """A loaded model. It does not hold the model, which may leave while this is remembered."""

    facts: ModelFacts
    sensors: tuple[str, ...]
    engine: EngineStats


@dataclass(frozen=True)
class Sample:
    """One reading of everything; `when_s` is on the monotonic clock."""

    when_s: float
    time_unix_ms: int
    uptime_s: float
    models: tuple[ModelReading, ...]
    clients: tuple[ClientStats, ...]
    call_errors: Mapping[tuple[str, str], int]
    """By method and code, as `CallErrors` counts them."""
    process: ProcessReading
    board: Reading


@dataclass(frozen=True)
class TokenEnergy:
    """Joules of the whole board for each token that was generated, over a window."""

    joules_per_token: float
    window_s: float


class Snapshots:
    """Takes samples and remembers those of the last minute. Of one event loop.

    Args:
        board: read in a thread, as sensors on a slow bus take their time.
        clock: that of the board's readings, in seconds.
        slow_s: how long to wait for the board.
    """

    def __init__(
        self,
        models: Models,
        clients: Clients,
        board: Sensed,
        errors: CallErrors | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        slow_s: float = SLOW_S,
    ) -> None:
        self._slow_s = slow_s
        self._models = models
        self._clients = clients
        self._errors = errors or CallErrors()
        self._board = board
        self._clock = clock
        self._process = psutil.Process()
        self._started_s = clock()
        self._flight: asyncio.Task[Sample] | None = None
        self._newest = self._sample(board.read())
        self._kept = deque([self._newest])

    async def newest(self, max_age_s: float) -> Sample:
        """A sample that is at most so old, or one that is being taken, or a new one.

        Where the board does not answer within `slow_s` it is one of the rest, without the board.
        """
        if self._clock() - self._newest.when_s <= max_age_s:
            return self._newest
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._take())
        done, _ = await asyncio.wait({self._flight}, timeout=self._slow_s)
        return done.pop().result() if done else self._sample(Reading(self._clock()))

    def before(self, sample: Sample) -> Sample:
        """What to compare `sample` with: the newest that is at least `SPACING_S` older, else the oldest there is."""
        older = [kept for kept in self._kept if sample.when_s - kept.when_s >= SPACING_S]
        return older[-1] if older else self._kept[0]

    def token_energy(self, sample: Sample) -> TokenEnergy | None:
        """Of the last minute; None if nothing was generated in it, or if its energy is not known throughout."""
        now = sample.board.power
        if now.joules is None:
            return None
        for kept in self._kept:
            then = kept.board.power
            if then.joules is None or then.joules_since_s != now.joules_since_s:
                continue
            tokens = _tokens_between(kept, sample)
            window_s = sample.when_s - kept.when_s
            return TokenEnergy((now.joules - then.joules) / tokens, window_s) if tokens > 0 and window_s > 0 else None
        return None

    async def _take(self) -> Sample:
        self._newest = self._sample(await asyncio.to_thread(self._board.read))
        if self._newest.when_s - self._kept[-1].when_s >= SPACING_S:
            self._kept.append(self._newest)
        while len(self._kept) > 2 and self._newest.when_s - self._kept[0].when_s > WINDOW_S:
            self._kept.popleft()
        return self._newest

    def _sample(self, board: Reading) -> Sample:
        return Sample(
            when_s=board.when_s,
            time_unix_ms=time.time_ns() // 1_000_000,
            uptime_s=board.when_s - self._started_s,
            models=tuple(
                ModelReading(model.facts, model.sensors, model.engine.stats()) for model in self._models.ready
            ),
            clients=tuple(self._clients.stats()),
            call_errors=self._errors.totals(),
            process=self._read_process(),
            board=board,
        )

    def _read_process(self) -> ProcessReading:
        with self._process.oneshot():
            times = self._process.cpu_times()
            return ProcessReading(
                pid=self._process.pid,
                rss_bytes=self._process.memory_info().rss,
                cpu_s=times.user + times.system,
                threads=self._process.num_threads(),
                open_files=self._process.num_fds(),
            )


def _tokens_between(before: Sample, now: Sample) -> int:
    """Tokens that were generated by models that are loaded now; those of one that has left are not known."""
    then = {id(model.facts): model.engine.completion_tokens_total for model in before.models}
    return sum(model.engine.completion_tokens_total - then.get(id(model.facts), 0) for model in now.models)
