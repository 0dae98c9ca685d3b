"""Snapshots over gRPC: what the engine, the process and the machine say, in the units of the proto."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

from fakes import no_models
from unit.runtime.fake_engine import FakeEngine, make_reader, serving

from edgeqwen.v1 import telemetry_pb2 as pb
from edgeqwen.v1 import telemetry_pb2_grpc
from runtime.model import Model, ModelFacts
from runtime.models import Models
from runtime.stats import EngineStats
from runtime.telemetry import TelemetryService

FACTS = ModelFacts("tiny", "board", "int4", provider="CPUExecutionProvider")
MODEL = pb.ModelInfo(name="tiny", variant="board", precision="int4", provider="CPUExecutionProvider")


def the_models(*sensors: str) -> Models:
    models = no_models()
    models.add(Model(FakeEngine(), make_reader(), FACTS, sensors))
    return models


async def snapshots(count: int, service: TelemetryService) -> list[pb.Snapshot]:
    async with serving(lambda server: telemetry_pb2_grpc.add_TelemetryServicer_to_server(service, server)) as channel:
        stub = telemetry_pb2_grpc.TelemetryStub(channel)
        return [await stub.GetSnapshot(pb.GetSnapshotRequest()) for _ in range(count)]


def test_engine_stats_are_what_the_proto_says() -> None:
    """The same names: a field on one side alone would be lost in silence."""
    ours = {field.name for field in dataclasses.fields(EngineStats)}
    assert ours == set(pb.EngineInfo.DESCRIPTOR.fields_by_name)


async def test_a_snapshot_has_every_part(tmp_path: Path) -> None:
    """The model as given, the engine's counters, and plausible figures of this process and machine."""
    [snapshot] = await snapshots(1, TelemetryService(the_models(), sysfs=tmp_path))
    assert snapshot.models[0].model == MODEL
    assert (snapshot.models[0].engine.queue_depth, snapshot.models[0].engine.kv_bytes_per_token) == (1, 8)
    assert snapshot.process.pid == os.getpid()
    assert 1 << 20 < snapshot.process.rss_bytes < snapshot.machine.memory_total_bytes
    assert snapshot.process.threads >= 1
    assert snapshot.process.open_files >= 3
    assert 0 < snapshot.machine.memory_available_bytes <= snapshot.machine.memory_total_bytes
    assert snapshot.machine.cores == os.cpu_count()
    assert abs(snapshot.time_unix_ms / 1000 - time.time()) < 60
    assert 0 <= snapshot.uptime_s < 60
    assert list(snapshot.machine.temperatures) == []


async def test_what_was_never_measured_is_unset(tmp_path: Path) -> None:
    """Not 0, which would be a measurement."""
    [snapshot] = await snapshots(1, TelemetryService(the_models(), sysfs=tmp_path))
    for field in ("time_to_first_token_p50_ms", "time_to_first_token_p95_ms", "last_step_age_ms"):
        assert not snapshot.models[0].engine.HasField(field)


async def test_shares_are_those_since_the_last_snapshot(tmp_path: Path) -> None:
    """A process that works shows it; a machine is never busier than all of its cores."""
    service = TelemetryService(the_models(), sysfs=tmp_path)
    until_s = time.process_time() + 0.1
    while time.process_time() < until_s:
        pass
    first, second = await snapshots(2, service)
    assert 0 < first.process.cpu_cores <= first.machine.cores + 1
    assert second.process.cpu_cores >= 0
    assert 0 <= second.machine.cpu_busy <= 1


async def test_temperatures_are_those_that_count(tmp_path: Path) -> None:
    """Of the sensors under the root, those that the profile names."""
    for at, name in enumerate(("cpu-thermal", "wifi")):
        zone = tmp_path / f"class/thermal/thermal_zone{at}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(name)
        (zone / "temp").write_text("50500")
    [snapshot] = await snapshots(1, TelemetryService(the_models("cpu-*"), sysfs=tmp_path))
    assert list(snapshot.machine.temperatures) == [pb.Temperature(sensor="cpu-thermal", celsius=50.5)]
