"""`edgeqwen.v1.Health` on gRPC: what there is to know of the daemon's health, judged when asked."""

from __future__ import annotations

import dataclasses
import mmap
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio

from edgeqwen.v1 import health_pb2 as pb
from edgeqwen.v1 import health_pb2_grpc

from ..engine.stats import EngineStats
from ..health import checks
from ..health.caretaker import Caretaker, hottest_c
from ..health.checks import Check
from ..memory_limits import read_group_use
from ..models.expectation import Expectation
from ..models.model import Model
from ..rollout.rollouts import Rollouts
from ..sensing.board import Reading

_SENSORS_S = 2.0
_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)


class HealthService(health_pb2_grpc.HealthServicer):
    """Judges the models that `caretaker` looks after, and their board.

    Args:
        memory_use: bytes in use of this process's control group, and its limit.
        rollouts: of a store; None on a daemon without one.
    """

    def __init__(
        self,
        caretaker: Caretaker,
        *,
        memory_use: Callable[[], tuple[int | None, int | None]] = read_group_use,
        rollouts: Rollouts | None = None,
    ) -> None:
        self._caretaker = caretaker
        self._memory_use = memory_use
        self._rollouts = rollouts
        self._ready_bytes = _resident_bytes()

    async def GetHealthReport(  # noqa: N802 - the name is the contract's
        self, request: pb.GetHealthReportRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.HealthReport:
        found = list(self.judge(await self._caretaker.fresh(_SENSORS_S)))
        return pb.HealthReport(
            status=pb.CheckStatus.Name(checks.worst(found)),
            checks=[pb.Check(**dataclasses.asdict(check)) for check in found],
            time_unix_ms=time.time_ns() // 1_000_000,
        )

    def judge(self, reading: Reading | None) -> Iterator[Check]:
        """All checks, of models first."""
        models = self._caretaker.models.ready
        if not models:
            yield checks.check_engine(loaded=False, draining=False, stalled=False, failures=0, age_s=None)
        for model in models:
            for check in self._of_model(model, model.engine.stats()):
                yield dataclasses.replace(check, model=model.name)
        yield from self._of_board(reading or Reading(0.0))
        yield from self._footprint()
        if self._rollouts is not None:
            yield self._rollouts.standing.check(time.time())
        yield from checks.check_warnings(self._caretaker.warnings())

    def _of_model(self, model: Model, stats: EngineStats) -> Iterator[Check]:
        age_ms = stats.last_step_age_ms
        yield checks.check_engine(
            loaded=True,
            draining=stats.draining,
            stalled=self._caretaker.stalled(model.engine),
            failures=stats.failures_in_a_row,
            age_s=None if age_ms is None else age_ms / 1e3,
        )
        yield checks.check_provider(model.facts.provider_requested, model.facts.provider)
        now, lowest = model.engine.throttled, len(model.engine.levels) - 1
        if model.expectation is not None:
            yield from self._of_speed(stats, model.expectation, lowered=now.reason)
        yield checks.check_queue(stats.queue_depth, stats.queue_limit)
        wanted = now.reason == self._caretaker.saving_power
        yield checks.check_power(now.level, lowest, now.reason, wanted=wanted)

    def _of_speed(self, stats: EngineStats, expected: Expectation, *, lowered: str) -> Iterator[Check]:
        step_ms, decode = stats.decode_step_p50_ms, expected.decode_tokens_per_second
        yield checks.check_speed(1e3 / step_ms if step_ms else None, decode, expected.decode_from, lowered=lowered)
        yield checks.check_latency(stats.time_to_first_token_p95_ms, expected.first_token_ms, expected.first_token_from)
        yield checks.check_token_time(
            stats.time_per_token_p95_ms,
            1e3 / decode if decode else None,
            rows=expected.rows,
            token_cost=expected.token_cost,
        )

    def _of_board(self, reading: Reading) -> Iterator[Check]:
        yield checks.check_temperature(hottest_c(reading), self._caretaker.limit_c)
        yield checks.check_throttling(reading.throttled)
        yield checks.check_memory(
            reading.memory_available_bytes,
            reading.memory.total_bytes,
            *self._memory_use(),
            reading.memory_psi_full_avg10,
        )
        yield checks.check_disk(reading.disk_free_bytes)

    def _footprint(self) -> Iterator[Check]:
        models = self._caretaker.models.loaded
        promised = [model.footprint for model in models if model.footprint is not None]
        if not promised:
            return
        stats = [model.engine.stats() for model in models]
        kv_bytes = sum((each.kv_used_tokens + each.kv_warm_tokens) * each.kv_bytes_per_token for each in stats)
        # All of the KV budgets counts, as earlier requests may fill them; libraries and scratch memory are there once.
        promised_bytes = sum(each.weights_bytes + each.kv_limit_bytes for each in promised)
        promised_bytes += max(each.buffers_bytes for each in promised)
        yield checks.check_footprint(_resident_bytes(), promised_bytes, self._ready_bytes, kv_bytes)


def _resident_bytes() -> int:
    """What this process takes; what it has mapped twice counts once."""
    try:
        found = _PSS.search(Path("/proc/self/smaps_rollup").read_text(encoding="ascii"))
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) << 10
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * mmap.PAGESIZE
