"""Lowers an engine's KV budget while memory is short: a thread that looks once a second while there is KV at all."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from ..engine.engine import Engine
from ..memory_limits import read_memory
from ..pressure import KvBudget, MemoryReading

_EVERY_S = 1.0
_WATCHING: set[PressureWatch] = set()


class PressureWatch:
    """Keeps what `engine` promises within what memory has room for.

    Args:
        read: what the kernel says of memory; None where it says nothing.
        sharers: how many engines take from the same memory, each an equal part of what is free; unset: all of this
            process that are watched.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        read: Callable[[], MemoryReading | None] = read_memory,
        sharers: Callable[[], int] = lambda: len(_WATCHING),
    ) -> None:
        self._engine = engine
        self._read = read
        self._sharers = sharers
        stats = engine.stats()
        self._whole = stats.kv_budget_tokens
        self._budget = KvBudget(self._whole, stats.kv_bytes_per_token)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="pressure", daemon=True)
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Looks from now on, until the engine stops or `stop`."""
        _WATCHING.add(self)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. The engine is to be stopped before: the thread may wait for its work."""
        _WATCHING.discard(self)
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """One reading, and what follows from it."""
        reading = self._read()
        if reading is None:
            return
        stats, before = self._engine.stats(), self._budget.tokens
        share = MemoryReading(
            reading.limit_bytes, reading.free_bytes // max(1, self._sharers()), reading.stalled, reading.kills
        )
        tokens = self._budget.decide(share, stats.kv_used_tokens + stats.kv_warm_tokens)
        if tokens == before:
            return
        self._engine.limit_kv(tokens)
        if before == self._whole:
            self._log.warning("memory is short", kv_budget_tokens=tokens, free_bytes=reading.free_bytes)
        elif tokens == self._whole:
            self._log.info("memory is back", kv_budget_tokens=tokens, free_bytes=reading.free_bytes)

    def _loop(self) -> None:
        while self._engine.wait_for_kv():
            self.look()
            if self._stopped.wait(_EVERY_S):
                return
