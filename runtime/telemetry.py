"""`edgeqwen.v1.Telemetry` on gRPC: the engine's counters, this process, and the machine, read when asked."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc.aio
import psutil

from edgeqwen.v1 import telemetry_pb2 as pb
from edgeqwen.v1 import telemetry_pb2_grpc

from .clients import Clients
from .model import Model, ModelFacts
from .models import Models
from .sensors import SYSFS, Reading, read_temperatures


class TelemetryService(telemetry_pb2_grpc.TelemetryServicer):
    """Answers with snapshots.

    Args:
        models: what is loaded. The sensors that count are those that its profiles name, or all.
        clients: who asks; None: nobody does.
        sysfs: where to look for sensors.
        warnings: what whoever runs the daemon should know of it.
    """

    def __init__(
        self,
        models: Models,
        clients: Clients | None = None,
        *,
        sysfs: Path = SYSFS,
        warnings: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._models = models
        self._clients = clients or Clients()
        self._sysfs = sysfs
        self._warnings = warnings
        self._started_s = time.monotonic()
        self._process = psutil.Process()
        self._last_cpu = _CpuReading.now(self._process)

    async def GetSnapshot(  # noqa: N802 - the name is the contract's
        self, request: pb.GetSnapshotRequest, context: grpc.aio.ServicerContext[pb.GetSnapshotRequest, pb.Snapshot]
    ) -> pb.Snapshot:
        # Sensors on a slow bus take their time, in which streams go on.
        return self.snapshot(await asyncio.to_thread(read_temperatures, self._sensors, self._sysfs))

    @property
    def _sensors(self) -> list[str]:
        """Patterns of those that count."""
        return [pattern for model in self._models.ready for pattern in model.sensors]

    def snapshot(self, temperatures: Sequence[Reading]) -> pb.Snapshot:
        """One reading of everything else."""
        cpu, before = _CpuReading.now(self._process), self._last_cpu
        self._last_cpu = cpu
        return pb.Snapshot(
            time_unix_ms=time.time_ns() // 1_000_000,
            uptime_s=time.monotonic() - self._started_s,
            models=map(_loaded_model, self._models.ready),
            process=self._process_info(cpu, before),
            machine=_machine_info(cpu, before, temperatures),
            clients=[pb.ClientInfo(**dataclasses.asdict(client)) for client in self._clients.stats()],
            warnings=self._warnings(),
        )

    def _process_info(self, cpu: _CpuReading, before: _CpuReading) -> pb.ProcessInfo:
        with self._process.oneshot():
            return pb.ProcessInfo(
                pid=self._process.pid,
                rss_bytes=self._process.memory_info().rss,
                cpu_cores=_share(cpu.process_s - before.process_s, cpu.wall_s - before.wall_s),
                threads=self._process.num_threads(),
                open_files=self._process.num_fds(),
            )


@dataclasses.dataclass(frozen=True)
class _CpuReading:
    """Processor times in seconds: of this process, of all cores busy, of all cores, and the clock's."""

    process_s: float
    busy_s: float
    machine_s: float
    wall_s: float

    @classmethod
    def now(cls, process: psutil.Process) -> _CpuReading:
        own, machine = process.cpu_times(), psutil.cpu_times()
        total = sum(machine) - machine.guest - machine.guest_nice  # the kernel counts guests in user and nice too
        return cls(own.user + own.system, total - machine.idle - machine.iowait, total, time.monotonic())


def model_info(facts: ModelFacts) -> pb.ModelInfo:
    """What is told of a model."""
    return pb.ModelInfo(**dataclasses.asdict(facts))


def _loaded_model(model: Model) -> pb.LoadedModel:
    return pb.LoadedModel(
        model=model_info(model.facts), engine=pb.EngineInfo(**dataclasses.asdict(model.engine.stats()))
    )


def _machine_info(cpu: _CpuReading, before: _CpuReading, temperatures: Sequence[Reading]) -> pb.MachineInfo:
    memory = psutil.virtual_memory()
    return pb.MachineInfo(
        cores=os.cpu_count() or 1,
        cpu_busy=_share(cpu.busy_s - before.busy_s, cpu.machine_s - before.machine_s),
        memory_total_bytes=memory.total,
        memory_available_bytes=memory.available,
        temperatures=[pb.Temperature(sensor=r.sensor, celsius=r.celsius) for r in temperatures],
        load_1m=os.getloadavg()[0],
    )


def _share(part: float, whole: float) -> float:
    return max(0.0, part / whole) if whole > 0 else 0.0
