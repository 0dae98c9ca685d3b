"""`edgeqwen.v1.Telemetry` on gRPC: the engine's counters, this process, and the machine, read when asked."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence

import grpc.aio

from edgeqwen.v1 import telemetry_pb2 as pb
from edgeqwen.v1 import telemetry_pb2_grpc

from ..access.call_errors import CallErrors
from ..access.clients import Clients
from ..errors import Fault, RequestError, Unavailable
from ..models.registry import Models
from ..rollout.rollouts import Rollouts
from ..sensing.board import Board
from ..telemetry.messages import snapshot_message
from ..telemetry.snapshots import Sample, Sensed, Snapshots
from .replies import abort

INTERVAL_MS = 1000
SHORTEST_MS = 100
LONGEST_MS = 3_600_000

_SHARED_S = 0.03  # watchers that are due within this time get the same reading
KEEP_S = 5.0

_Context = grpc.aio.ServicerContext[pb.GetSnapshotRequest, pb.Snapshot]
_WatchContext = grpc.aio.ServicerContext[pb.WatchRequest, pb.Snapshot]


class TelemetryService(telemetry_pb2_grpc.TelemetryServicer):
    """Answers with snapshots.

    Args:
        models: what is loaded. The sensors that count are those that its profiles name, or all.
        clients: who asks; None: nobody does.
        board: what to read; None reads this machine's.
        warnings: what whoever runs the daemon should know of it, and what to do about it.
        errors: what callers got; None: nobody calls.
        rollouts: of a store; None on a daemon without one.
        clock: that of the board.
        keep_s: between snapshots that are further apart than this, readings go on: power must be added up.
    """

    def __init__(
        self,
        models: Models,
        clients: Clients | None = None,
        board: Sensed | None = None,
        *,
        warnings: Callable[[], Sequence[tuple[str, str]]] = tuple,
        errors: CallErrors | None = None,
        rollouts: Rollouts | None = None,
        clock: Callable[[], float] = time.monotonic,
        keep_s: float = KEEP_S,
    ) -> None:
        self._keep_s = keep_s
        self._warnings = warnings
        self._rollouts = rollouts
        self._clock = clock
        self._snapshots = Snapshots(models, clients or Clients(), board or Board(), errors, clock=clock)
        self._closed = models.closed

    async def GetSnapshot(  # noqa: N802 - the name is the contract's
        self, request: pb.GetSnapshotRequest, context: _Context
    ) -> pb.Snapshot:
        return await self.snapshot()

    async def snapshot(self) -> pb.Snapshot:
        """A new one: who has just heard the end of his request finds it counted."""
        now = await self._snapshots.newest(0.0)
        return self._message(now, self._snapshots.before(now))

    async def Watch(  # noqa: N802 - the name is the contract's
        self, request: pb.WatchRequest, context: _WatchContext
    ) -> AsyncIterator[pb.Snapshot]:
        interval_ms = request.interval_ms if request.HasField("interval_ms") else INTERVAL_MS
        if not SHORTEST_MS <= interval_ms <= LONGEST_MS:
            message = f"must be {SHORTEST_MS} to {LONGEST_MS} (got {interval_ms})"
            await abort(context, RequestError([Fault("interval_ms", message)]))
        now = await self._snapshots.newest(_SHARED_S)
        before = self._snapshots.before(now)
        while not self._closed.is_set():
            # Returns when gRPC has room for it, so that who reads slowly holds up only himself.
            yield self._message(now, before)
            before = now
            await self._wait_until(next_tick_s(now.when_s, interval_ms / 1000))
            now = await self._snapshots.newest(_SHARED_S)
        await abort(context, Unavailable("the daemon is shutting down"))

    async def _wait_until(self, due_s: float) -> None:
        while (left_s := due_s - self._clock()) > 0 and not self._closed.is_set():
            try:
                await asyncio.wait_for(self._closed.wait(), min(left_s, self._keep_s))
            except TimeoutError:
                if left_s > self._keep_s:
                    await self._snapshots.newest(self._keep_s / 2)

    def _message(self, now: Sample, before: Sample) -> pb.Snapshot:
        message = snapshot_message(now, before, self._snapshots.token_energy(now))
        message.warnings.extend(f"{what}: {advice}" for what, advice in self._warnings())
        if self._rollouts is not None and (served := self._rollouts.standing.served):
            message.served.MergeFrom(pb.ServedPackage(**dataclasses.asdict(served)))
        return message


def next_tick_s(last_s: float, interval_s: float) -> float:
    """When to read after a reading at `last_s`: at a multiple of the interval, as all do who want the same one.

    It is at least half an interval away: rates over a shorter time would mean little.
    """
    return math.ceil(last_s / interval_s + 0.5) * interval_s
