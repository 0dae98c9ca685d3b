"""What `edgeqwen watch` remembers: figures of the last snapshots."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from .v1 import telemetry_pb2 as pb

LENGTH = 240


@dataclass(frozen=True)
class ModelPoint:
    """Figures of a model in one snapshot; None where it has none."""

    tokens_per_second: float | None
    prompt_tokens_per_second: float | None
    first_token_ms: float | None
    waiting: float
    running: float


@dataclass(frozen=True)
class Point:
    """Figures of the machine in one snapshot, and of each model by its name."""

    models: Mapping[str, ModelPoint]
    cpu_busy: float | None
    hottest_c: float | None
    watts: float | None
    memory_used: float | None


@dataclass
class History:
    """The last points, the oldest first. `restarts` counts how often the daemon was another one than before."""

    points: deque[Point] = field(default_factory=lambda: deque(maxlen=LENGTH))
    restarts: int = 0
    last: pb.Snapshot | None = None

    def add(self, snapshot: pb.Snapshot) -> Point:
        """Counts one more; speeds are since the one before it."""
        before = self.last
        if before is not None and before.process.pid != snapshot.process.pid:
            self.restarts += 1
            before = None
        self.last = snapshot
        point = _point(snapshot, before)
        self.points.append(point)
        return point

    def of(self, name: str) -> list[float | None]:
        """A figure of the machine over time."""
        return [getattr(point, name) for point in self.points]

    def of_model(self, model: str, name: str) -> list[float | None]:
        """A figure of a model over time; None while it was not there."""
        found = (point.models.get(model) for point in self.points)
        return [None if each is None else getattr(each, name) for each in found]


def hottest(machine: pb.MachineInfo) -> pb.Temperature | None:
    """The sensor that says most."""
    return max(machine.temperatures, key=lambda each: each.celsius, default=None)


def _point(snapshot: pb.Snapshot, before: pb.Snapshot | None) -> Point:
    machine, hot = snapshot.machine, hottest(snapshot.machine)
    total, available = machine.memory_total_bytes, machine.memory_available_bytes
    seconds = 0.0 if before is None else snapshot.uptime_s - before.uptime_s
    then = {} if before is None else {each.model.name: each for each in before.models}
    return Point(
        models={each.model.name: _model(each, then.get(each.model.name), seconds) for each in snapshot.models},
        cpu_busy=machine.cpu_busy if machine.HasField("cpu_busy") else None,
        hottest_c=None if hot is None else hot.celsius,
        watts=snapshot.energy.watts if snapshot.energy.HasField("watts") else None,
        memory_used=(total - available) / total if total and machine.HasField("memory_available_bytes") else None,
    )


def _model(now: pb.LoadedModel, before: pb.LoadedModel | None, seconds: float) -> ModelPoint:
    engine = now.engine
    first = engine.time_to_first_token_p50_ms if engine.HasField("time_to_first_token_p50_ms") else None
    return ModelPoint(
        tokens_per_second=_speed(now, before, seconds, "completion_tokens_total"),
        prompt_tokens_per_second=_speed(now, before, seconds, "prompt_tokens_total"),
        first_token_ms=first,
        waiting=engine.queue_depth,
        running=engine.running,
    )


def _speed(now: pb.LoadedModel, before: pb.LoadedModel | None, seconds: float, counter: str) -> float | None:
    """Per second of the daemon's own time; a counter that is lower is that of a model which was loaded again."""
    if before is None or seconds <= 0:
        return None
    counted = getattr(now.engine, counter) - getattr(before.engine, counter)
    return counted / seconds if counted >= 0 else None
