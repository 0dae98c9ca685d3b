"""Samples as `edgeqwen.v1.Snapshot`: what is not known is left unset."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version

from edgeqwen.v1 import telemetry_pb2 as pb

from ..models.model import ModelFacts
from ..sensing.board import Reading
from ..sensing.gpu import Gpu
from ..sensing.memory import Pressure
from ..sensing.rates import Rates, rates_between
from ..sensing.temperature import chosen
from .snapshots import ModelReading, Sample, TokenEnergy

_VERSION = version("edgeqwen")


def snapshot_message(now: Sample, before: Sample, tokens: TokenEnergy | None) -> pb.Snapshot:
    """`now`, with rates since `before`; they may be the same sample, which has none."""
    rates = rates_between(before.board, now.board)
    return pb.Snapshot(
        time_unix_ms=now.time_unix_ms,
        uptime_s=now.uptime_s,
        models=map(_loaded_model, now.models),
        process=_process(now, before),
        machine=_machine(now.board, rates, _sensors(now)),
        energy=_energy(now, tokens),
        rates_s=rates.seconds,
        clients=[pb.ClientInfo(**dataclasses.asdict(client)) for client in now.clients],
        call_errors=[
            pb.CallErrors(method=method, code=code, total=total) for (method, code), total in now.call_errors.items()
        ],
        daemon_version=_VERSION,
    )


def model_info(facts: ModelFacts) -> pb.ModelInfo:
    """What is told of a model."""
    return pb.ModelInfo(**dataclasses.asdict(facts))


def _loaded_model(model: ModelReading) -> pb.LoadedModel:
    return pb.LoadedModel(model=model_info(model.facts), engine=pb.EngineInfo(**dataclasses.asdict(model.engine)))


def _sensors(sample: Sample) -> list[str]:
    """Patterns of those that count by the profiles of the models; none counts all."""
    return [pattern for model in sample.models for pattern in model.sensors]


def _process(now: Sample, before: Sample) -> pb.ProcessInfo:
    process, seconds = now.process, now.when_s - before.when_s
    return pb.ProcessInfo(
        pid=process.pid,
        rss_bytes=process.rss_bytes,
        cpu_cores=max(0.0, process.cpu_s - before.process.cpu_s) / seconds if seconds > 0 else 0.0,
        threads=process.threads,
        open_files=process.open_files,
    )


def _machine(board: Reading, rates: Rates, sensors: Sequence[str]) -> pb.MachineInfo:
    throttling = None if board.throttled is None else pb.Throttling(reasons=board.throttled)
    return pb.MachineInfo(
        cores=len(board.cores),
        cpu_busy=rates.cpu_busy,
        memory_total_bytes=board.memory.total_bytes,
        memory_available_bytes=board.memory.available_bytes,
        swap_total_bytes=board.memory.swap_total_bytes,
        swap_free_bytes=board.memory.swap_free_bytes,
        temperatures=[
            pb.Temperature(sensor=each.sensor, celsius=each.celsius) for each in chosen(board.temperatures, sensors)
        ],
        load_1m=board.load_1m,
        cpu_cores=[
            pb.CpuCore(
                number=core.number,
                busy=rates.core_busy.get(core.number),
                frequency_hz=core.frequency_hz,
                max_frequency_hz=core.max_frequency_hz,
            )
            for core in board.cores
        ],
        memory_pressure=_pressure(board.memory_pressure),
        cpu_pressure=_pressure(board.cpu_pressure),
        io_pressure=_pressure(board.io_pressure),
        throttling=throttling,
        gpus=map(_gpu, board.gpus),
        rails=[pb.Rail(name=rail.name, watts=rail.watts) for rail in board.rails],
        disks=[
            pb.Disk(
                folder=str(disk.folder),
                total_bytes=disk.total_bytes,
                free_bytes=disk.free_bytes,
                read_bytes_per_second=rates.disk_read.get(str(disk.folder)),
                written_bytes_per_second=rates.disk_written.get(str(disk.folder)),
            )
            for disk in board.disks
        ],
        network=[
            pb.NetworkInterface(
                name=each.name,
                received_bytes=each.received_bytes,
                sent_bytes=each.sent_bytes,
                received_bytes_per_second=rates.network_received.get(each.name),
                sent_bytes_per_second=rates.network_sent.get(each.name),
            )
            for each in board.interfaces
        ],
    )


def _pressure(pressure: Pressure | None) -> pb.Pressure | None:
    return None if pressure is None else pb.Pressure(**dataclasses.asdict(pressure))


def _gpu(gpu: Gpu) -> pb.Gpu:
    fields = dataclasses.asdict(gpu)
    del fields["throttled"]  # it is among the reasons of the whole machine
    return pb.Gpu(**fields)


def _energy(now: Sample, tokens: TokenEnergy | None) -> pb.Energy | None:
    power = now.board.power
    if not power.covers or power.joules is None or power.joules_since_s is None:
        return None
    return pb.Energy(
        watts=power.watts,
        covers=power.covers,
        joules=power.joules,
        counted_s=now.when_s - power.joules_since_s,
        joules_per_token=None if tokens is None else tokens.joules_per_token,
        window_s=None if tokens is None else tokens.window_s,
    )
