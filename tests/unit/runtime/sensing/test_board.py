"""Readings of whole boards: what three of them say, and that nothing a sensor does breaks a reading."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import JETSON, NAMES, PI, X86, board, damage, damages, put

from runtime.sensing.board import SEARCH_S, Board, Reading
from runtime.sensing.temperature import Temperature


class Clock:
    """Seconds, as a test wants them."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_raspberry_pi_5(tmp_path: Path) -> None:
    """It tells heat, clock and flags, counts no pressure, and has no power sensor."""
    reading = Board(board(PI, tmp_path)).read()
    assert [each.sensor for each in reading.temperatures] == ["cpu-thermal", "cpu_thermal/temp1", "rp1_adc/temp1"]
    assert reading.hottest_c == 48.85
    assert reading.throttled == ()
    assert [core.number for core in reading.cores] == [0, 1, 2, 3]
    assert (reading.cores[0].frequency_hz, reading.cores[3].max_frequency_hz) == (1_500_000_000, 2_400_000_000)
    assert reading.memory_available_bytes == 7402112 << 10
    assert reading.memory_psi_full_avg10 is None
    assert (reading.power_watts, reading.power.covers, reading.rails) == (None, (), ())
    assert [each.name for each in reading.interfaces] == ["eth0", "wlan0"]
    assert reading.gpus == ()
    assert reading.load_1m == 0.42


def test_a_jetson_orin_nano(tmp_path: Path) -> None:
    """Rails by name with the module's as the whole, zones that sleep left out, the GPU's load and clock."""
    reading = Board(board(JETSON, tmp_path)).read()
    assert {rail.name: round(rail.watts, 3) for rail in reading.rails} == {
        "VDD_CPU_GPU_CV": 1.206,
        "VDD_IN": 5.716,
        "VDD_SOC": 1.527,
    }
    assert reading.power_watts == pytest.approx(5.716, abs=1e-3)
    assert reading.power.covers == ("VDD_IN",)
    assert "cv0-thermal" not in [each.sensor for each in reading.temperatures]
    assert Temperature("tj-thermal", 49.625) in reading.temperatures
    [gpu] = reading.gpus
    assert (gpu.name, gpu.busy, gpu.frequency_hz) == ("17000000.gpu", 0.123, 306_000_000)
    assert reading.throttled == ()
    assert [core.frequency_hz for core in reading.cores] == [1_113_600_000] * 4 + [729_600_000] * 2
    assert reading.memory_psi_full_avg10 == 0.0
    assert reading.io_pressure is not None
    assert reading.io_pressure.full_avg10 == 0.41


def test_an_x86_box(tmp_path: Path) -> None:
    """Energy of package and memory, each once, becomes power with the second reading; an offset is no throttling."""
    clock = Clock()
    root = board(X86, tmp_path)
    sensed = Board(root, clock=clock)
    first = sensed.read()
    assert (first.power_watts, first.power.covers, first.power.joules) == (None, ("dram-0", "package-0"), 0.0)
    assert first.throttled == ()
    clock.now_s += 2
    put(root, "sys/class/powercap/intel-rapl:0/energy_uj", 118432198765 + 30_000_000)
    put(root, "sys/class/powercap/intel-rapl:0:1/energy_uj", 21219876543 + 2_000_000)
    second = sensed.read()
    assert second.power_watts == pytest.approx(16.0)
    assert second.power.joules == pytest.approx(32.0)
    assert Temperature("coretemp/Core 1", 51.0) in second.temperatures


def test_only_the_sensors_that_count_are_read(tmp_path: Path) -> None:
    """As the profile's patterns say; one that fits nothing is no error."""
    reading = Board(board(JETSON, tmp_path), sensors=["cpu-*", "nvme/*", "nothing"]).read()
    assert [each.sensor for each in reading.temperatures] == ["cpu-thermal", "nvme/Composite"]


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    """Everything is absent, nothing is 0."""
    reading = Board(tmp_path / "nothing", clock=Clock()).read()
    assert reading == Reading(when_s=100.0)
    assert (reading.hottest_c, reading.throttled, reading.disk_free_bytes) == (None, None, None)
    assert (reading.memory_available_bytes, reading.memory_psi_full_avg10) == (None, None)


def test_sensors_that_come_later_are_found(tmp_path: Path) -> None:
    """A driver may be loaded after the daemon; those that went are gone at once."""
    clock = Clock()
    sensed = Board(tmp_path, clock=clock)
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", 40000)
    assert sensed.read().temperatures == ()
    clock.now_s += SEARCH_S
    assert sensed.read().temperatures == (Temperature("cpu-thermal", 40.0),)
    shutil.rmtree(tmp_path / "sys")
    assert sensed.read().temperatures == ()


def test_the_room_is_that_of_the_folders(tmp_path: Path) -> None:
    """A filesystem counts once, a folder that is not there yet counts where it will be, and bytes are its disk's."""
    device = tmp_path.stat().st_dev
    line = f" {os.major(device)} {os.minor(device)} disk 10 0 2000 5 20 0 3000 6 0 0 0\n"
    put(tmp_path, "proc/diskstats", line)
    reading = Board(tmp_path, folders=[tmp_path, tmp_path / "not/yet", Path("/proc")]).read()
    disk = reading.disks[0]
    room = os.statvfs(tmp_path)
    assert disk.folder == tmp_path
    assert disk.total_bytes == room.f_blocks * room.f_frsize
    assert (disk.read_bytes, disk.written_bytes) == (1_024_000, 1_536_000)
    assert [each.folder for each in reading.disks] == [tmp_path, Path("/proc")]
    assert reading.disks[1].read_bytes is None


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60)
def test_no_file_breaks_a_reading(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Files that vanish, break, hang or hold garbage, before the sensors are looked for or between readings."""
    before, between = data.draw(damages(name)), data.draw(damages(name))
    root = board(name, tmp_path_factory.mktemp("board"))
    damage(root, before)
    clock = Clock()
    sensed = Board(root, clock=clock)
    first = sensed.read()
    damage(root, {file: done for file, done in between.items() if file not in before})
    clock.now_s += 1
    for reading in (first, sensed.read()):
        assert all(-100 <= each.celsius <= 300 for each in reading.temperatures)
        assert all(math.isfinite(rail.watts) for rail in reading.rails)
        assert reading.power_watts is None or 0 <= reading.power_watts <= 50_000
        assert reading.throttled is None or reading.throttled == tuple(sorted(set(reading.throttled)))
        assert all(gpu.busy is None or 0 <= gpu.busy <= 1 for gpu in reading.gpus)
        assert all(0 <= core.busy_s <= core.total_s for core in reading.cores)
    shutil.rmtree(root)
