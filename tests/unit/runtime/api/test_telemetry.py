"""Snapshots over gRPC, once or as a stream: engine, process and machine, in the units of the proto."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import grpc.aio
import pytest
from fakes import no_models
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import JETSON, NAMES, PI, X86, board, damage, damages, put
from unit.runtime.fake_engine import FakeEngine, make_reader, only_model, serving
from unit.runtime.sensing.test_board import Clock
from unit.runtime.telemetry.test_snapshots import CountingEngine, FakeBoard

from edgeqwen.v1 import telemetry_pb2 as pb
from edgeqwen.v1 import telemetry_pb2_grpc
from runtime.access.clients import Clients
from runtime.api.telemetry import TelemetryService, next_tick_s
from runtime.engine.stats import EngineStats
from runtime.models.model import Model, ModelFacts
from runtime.sensing.board import Board, Reading
from runtime.telemetry.messages import snapshot_message
from runtime.telemetry.snapshots import Snapshots

FACTS = ModelFacts("tiny", "board", "int4", provider="CPUExecutionProvider", package_version="1.2.0")


@asynccontextmanager
async def stub_of(service: TelemetryService) -> AsyncIterator[telemetry_pb2_grpc.TelemetryAsyncStub]:
    async with serving(lambda server: telemetry_pb2_grpc.add_TelemetryServicer_to_server(service, server)) as channel:
        yield telemetry_pb2_grpc.TelemetryStub(channel)


async def snapshot_of(root: Path) -> pb.Snapshot:
    async with stub_of(TelemetryService(only_model(FakeEngine()), board=Board(root))) as stub:
        return await stub.GetSnapshot(pb.GetSnapshotRequest())


def test_engine_stats_are_what_the_proto_says() -> None:
    """The same names: a field on one side alone would be lost in silence."""
    ours = {field.name for field in dataclasses.fields(EngineStats)}
    assert ours == set(pb.EngineInfo.DESCRIPTOR.fields_by_name)


async def test_a_snapshot_has_every_part() -> None:
    """The model as given, the engine's counters, and plausible figures of this process and machine."""
    models = no_models()
    models.add(Model(FakeEngine(), make_reader(), FACTS))
    async with stub_of(TelemetryService(models)) as stub:
        snapshot = await stub.GetSnapshot(pb.GetSnapshotRequest())
    [loaded] = snapshot.models
    assert loaded.model == pb.ModelInfo(**dataclasses.asdict(FACTS))
    assert (loaded.engine.queue_depth, loaded.engine.kv_bytes_per_token) == (1, 8)
    assert snapshot.daemon_version == version("edgeqwen")
    assert snapshot.process.pid == os.getpid()
    assert 1 << 20 < snapshot.process.rss_bytes < snapshot.machine.memory_total_bytes
    assert snapshot.process.threads >= 1
    assert snapshot.process.open_files >= 3
    assert 0 < snapshot.machine.memory_available_bytes <= snapshot.machine.memory_total_bytes
    assert 1 <= snapshot.machine.cores == len(snapshot.machine.cpu_cores)
    assert abs(snapshot.time_unix_ms / 1000 - time.time()) < 60
    assert 0 <= snapshot.uptime_s < 60


async def test_what_was_never_measured_is_unset(tmp_path: Path) -> None:
    """Not 0, which would be a measurement."""
    snapshot = await snapshot_of(tmp_path)
    for field in ("time_to_first_token_p50_ms", "time_to_first_token_p95_ms", "last_step_age_ms"):
        assert not snapshot.models[0].engine.HasField(field)
    assert snapshot.machine == pb.MachineInfo()
    assert not snapshot.HasField("energy")


async def test_temperatures_are_those_that_count(tmp_path: Path) -> None:
    """Of all sensors, those that the profiles of the loaded models name."""
    models = no_models()
    models.add(Model(FakeEngine(), make_reader(), FACTS, ("cpu-*",)))
    async with stub_of(TelemetryService(models, board=Board(board(JETSON, tmp_path)))) as stub:
        snapshot = await stub.GetSnapshot(pb.GetSnapshotRequest())
    assert [each.sensor for each in snapshot.machine.temperatures] == ["cpu-thermal"]


async def test_a_raspberry_pi_5(tmp_path: Path) -> None:
    """Nothing holds it back, which is not the same as not to know; pressure and power it does not tell."""
    snapshot = await snapshot_of(board(PI, tmp_path))
    machine = snapshot.machine
    assert machine.HasField("throttling")
    assert list(machine.throttling.reasons) == []
    assert not machine.HasField("memory_pressure")
    assert not snapshot.HasField("energy")
    assert machine.cpu_cores[2].frequency_hz == 1_500_000_000
    assert machine.temperatures[0] == pb.Temperature(sensor="cpu-thermal", celsius=48.85)


async def test_a_jetson_orin_nano(tmp_path: Path) -> None:
    """Rails, the board's power, GPU and pressure."""
    root = board(JETSON, tmp_path)
    put(root, "sys/class/thermal/cooling_device2/cur_state", 1)
    snapshot = await snapshot_of(root)
    machine = snapshot.machine
    assert [rail.name for rail in machine.rails] == ["VDD_CPU_GPU_CV", "VDD_IN", "VDD_SOC"]
    assert snapshot.energy.watts == pytest.approx(5.716, abs=1e-3)
    assert list(snapshot.energy.covers) == ["VDD_IN"]
    assert not snapshot.energy.HasField("joules_per_token")
    assert machine.gpus[0].busy == pytest.approx(0.123)
    assert not machine.gpus[0].HasField("memory_total_bytes")
    assert machine.io_pressure.full_avg10 == 0.41
    assert list(machine.throttling.reasons) == ["gpu-throttle-alert"]


def test_rates_are_those_since_the_earlier_sample(tmp_path: Path) -> None:
    """Of cores, disks, network and this process; energy goes to tokens."""
    root, clock, engine = board(X86, tmp_path), Clock(), CountingEngine()
    put(root, "proc/stat", "cpu0 100 0 0 900 0 0 0 0 0 0\ncpu1 100 0 0 900 0 0 0 0 0 0")
    put(root, "proc/net/dev", "eth0: 1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0")
    snapshots = Snapshots(only_model(engine), Clients(), Board(root, clock=clock), clock=clock)
    first = asyncio.run(snapshots.newest(0.0))
    put(root, "proc/stat", "cpu0 200 0 0 900 0 0 0 0 0 0\ncpu1 100 0 0 1000 0 0 0 0 0 0")
    put(root, "proc/net/dev", "eth0: 3000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0")
    put(root, "sys/class/powercap/intel-rapl:0/energy_uj", 118432198765 + 40_000_000)
    clock.now_s += 4
    engine.tokens = 20
    now = asyncio.run(snapshots.newest(0.0))
    message = snapshot_message(now, first, snapshots.token_energy(now))
    assert message.rates_s == 4
    assert message.machine.cpu_busy == 0.5
    assert [core.busy for core in message.machine.cpu_cores] == [1.0, 0.0]
    [port] = message.machine.network
    assert (port.received_bytes_per_second, port.sent_bytes_per_second) == (500.0, 0.0)
    assert message.energy.watts == pytest.approx(10.0)
    assert (message.energy.joules, message.energy.counted_s) == (pytest.approx(40.0), 4.0)
    assert (message.energy.joules_per_token, message.energy.window_s) == (pytest.approx(2.0), 4.0)
    assert message.process.cpu_cores >= 0


async def test_a_watch_begins_at_once_and_goes_on(tmp_path: Path) -> None:
    """In the interval that was asked for, about; each snapshot has rates since the one before."""
    service = TelemetryService(only_model(FakeEngine()), board=Board(board(PI, tmp_path)))
    async with stub_of(service) as stub:
        watch = stub.Watch(pb.WatchRequest(interval_ms=100))
        seen = [await watch.read() for _ in range(4)]
        watch.cancel()
    assert [each.time_unix_ms for each in seen] == sorted({each.time_unix_ms for each in seen})
    assert all(each.rates_s >= 0.05 for each in seen[1:])
    assert sum(each.rates_s for each in seen[1:]) == pytest.approx(seen[-1].uptime_s - seen[0].uptime_s)


@pytest.mark.parametrize("interval_ms", [0, 99, 3_600_001, 2**32 - 1])
async def test_an_interval_out_of_bounds_is_refused(interval_ms: int) -> None:
    """Before anything is read for it."""
    async with stub_of(TelemetryService(only_model(FakeEngine()))) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="interval_ms: must be 100 to 3600000") as error:
            await stub.Watch(pb.WatchRequest(interval_ms=interval_ms)).read()
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


class CountedBoard:
    """Counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> Reading:
        self.reads += 1
        return Reading(when_s=time.monotonic())


async def test_many_watchers_share_readings() -> None:
    """One reading a tick, however many there are; without a tick, none."""
    fake = FakeBoard()
    async with stub_of(TelemetryService(only_model(FakeEngine()), board=fake, clock=fake.clock)) as stub:
        watches = [stub.Watch(pb.WatchRequest(interval_ms=100)) for _ in range(16)]
        for ticks in range(4):
            seen = await asyncio.gather(*(watch.read() for watch in watches))
            assert len({each.time_unix_ms for each in seen}) == 1
            assert fake.reads == 1 + ticks
            fake.now_s += 0.16  # a tick is at most one and a half intervals away
        for watch in watches:
            watch.cancel()


async def test_two_watchers_have_rates_of_their_own() -> None:
    """One that looks rarely sees its whole interval, however often others look."""
    fake = FakeBoard()
    async with stub_of(TelemetryService(only_model(FakeEngine()), board=fake, clock=fake.clock)) as stub:
        often, rarely = (stub.Watch(pb.WatchRequest(interval_ms=each)) for each in (100, 500))
        await asyncio.gather(often.read(), rarely.read())
        for _ in range(3):
            fake.now_s += 0.2
            assert (await often.read()).rates_s == pytest.approx(0.2)
            await stub.GetSnapshot(pb.GetSnapshotRequest())
        assert (await rarely.read()).rates_s == pytest.approx(0.6)
        often.cancel()
        rarely.cancel()


async def test_power_is_read_between_snapshots_that_are_far_apart() -> None:
    """Somebody who looks once an hour must not lose the energy of that hour."""
    fake = FakeBoard()
    service = TelemetryService(only_model(FakeEngine()), board=fake, clock=fake.clock, keep_s=0.01)
    async with stub_of(service) as stub:
        watch = stub.Watch(pb.WatchRequest(interval_ms=20_000))
        await watch.read()
        for reads in range(2, 5):
            fake.now_s += 2.0
            while fake.reads < reads:
                await asyncio.sleep(0)
        fake.now_s += 24.0
        assert (await watch.read()).rates_s == pytest.approx(30.0)
        watch.cancel()


async def test_who_reads_slowly_gets_no_backlog() -> None:
    """Beyond the 4 MB that the transport holds nothing is made for him: each message is fresh when it is sent."""
    service = TelemetryService(only_model(FakeEngine(), name="n" * 1_000_000), board=CountedBoard())
    async with stub_of(service) as stub:
        slow = stub.Watch(pb.WatchRequest(interval_ms=100))
        quick = stub.Watch(pb.WatchRequest(interval_ms=100))
        for _ in range(15):
            last = await quick.read()
        stale = 0
        while (await slow.read()).time_unix_ms < last.time_unix_ms:
            stale += 1
        slow.cancel()
        quick.cancel()
    assert stale < 10


@pytest.mark.parametrize(
    ("last_s", "interval_s", "due_s"), [(10.0, 1.0, 11.0), (10.4, 1.0, 11.0), (10.6, 1.0, 12.0), (0.05, 0.1, 0.1)]
)
def test_ticks_are_multiples_of_the_interval(last_s: float, interval_s: float, due_s: float) -> None:
    """The next that is at least half an interval away."""
    assert next_tick_s(last_s, interval_s) == pytest.approx(due_s)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=25)
def test_whatever_a_board_says_becomes_a_message(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any reading fits the message's types, and comes back from its bytes."""
    root = board(name, tmp_path_factory.mktemp("board"))
    damage(root, data.draw(damages(name)))
    clock = Clock()
    snapshots = Snapshots(only_model(FakeEngine()), Clients(), Board(root, clock=clock), clock=clock)
    first = asyncio.run(snapshots.newest(0.0))
    clock.now_s += 1
    now = asyncio.run(snapshots.newest(0.0))
    message = snapshot_message(now, first, None)
    assert pb.Snapshot.FromString(message.SerializeToString()) == message
    shutil.rmtree(root)
