"""Temperatures of boards that sysfs trees stand for: whatever is in them, what answers is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.sensors import Reading, read_temperatures


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Like a Raspberry Pi 5 with a drive: a zone, and chips with and without labels."""
    write(tmp_path / "class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "48250\n")
    write(tmp_path / "class/thermal/cooling_device0/type", "pwm-fan\n")
    write(tmp_path / "class/hwmon/hwmon0/name", "nvme\n")
    write(tmp_path / "class/hwmon/hwmon0/temp1_input", "-2850\n")
    write(tmp_path / "class/hwmon/hwmon0/temp1_label", "Composite\n")
    write(tmp_path / "class/hwmon/hwmon0/temp1_max", "80000\n")
    write(tmp_path / "class/hwmon/hwmon1/name", "rp1_adc\n")
    write(tmp_path / "class/hwmon/hwmon1/temp1_input", "51000\n")
    write(tmp_path / "class/hwmon/hwmon1/in1_input", "1480\n")
    return tmp_path


def test_zones_and_chips_are_read_by_name(board: Path) -> None:
    """In degrees, sorted; fans, limits and voltages are not temperatures."""
    assert read_temperatures(root=board) == [
        Reading("cpu-thermal", 48.25),
        Reading("nvme/Composite", -2.85),
        Reading("rp1_adc/temp1", 51.0),
    ]


def test_patterns_choose_what_counts(board: Path) -> None:
    """Any of them may match; a pattern that matches nothing is no error."""
    found = read_temperatures(["cpu-*", "nvme/*", "gpu"], board)
    assert [reading.sensor for reading in found] == ["cpu-thermal", "nvme/Composite"]


def test_a_machine_without_sensors_has_no_temperatures(tmp_path: Path) -> None:
    assert read_temperatures(root=tmp_path / "nothing") == []


def test_a_sensor_that_does_not_answer_is_left_out(board: Path) -> None:
    """A zone without a value, and one whose value cannot be read, do not hide the others."""
    write(board / "class/thermal/thermal_zone1/type", "sleeping\n")
    (board / "class/thermal/thermal_zone2").mkdir()
    write(board / "class/thermal/thermal_zone2/type", "broken\n")
    (board / "class/thermal/thermal_zone2/temp").mkdir()
    assert len(read_temperatures(root=board)) == 3


@given(name=st.binary(max_size=20), value=st.binary(max_size=20))
@example(name=b"", value=b"\x1c0")  # white space to str.strip, not to int
@settings(deadline=None, max_examples=50)
def test_whatever_a_driver_says_is_a_reading_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, name: bytes, value: bytes
) -> None:
    """Bytes that are neither text nor number raise nothing."""
    root = tmp_path_factory.mktemp("sys")
    write(root / "class/thermal/thermal_zone0/type", name)
    write(root / "class/thermal/thermal_zone0/temp", value)
    write(root / "class/hwmon/hwmon0/name", name)
    write(root / "class/hwmon/hwmon0/temp1_input", value)
    for reading in read_temperatures(root=root):
        assert reading.sensor
        assert reading.celsius * 1000 == pytest.approx(int(value.decode(errors="replace").strip()))


@pytest.mark.parametrize("garbage", ["", "\n", "hot", "48.2", "0x30", "9" * 400, "-", "\x00\x00"])
def test_a_value_that_is_no_temperature_hides_no_other(board: Path, garbage: str) -> None:
    """A sensor that says anything but a whole number that fits is skipped, and the rest are read."""
    write(board / "class/thermal/thermal_zone0/temp", garbage)
    write(board / "class/hwmon/hwmon0/temp1_input", garbage)
    assert read_temperatures(root=board) == [Reading("rp1_adc/temp1", 51.0)]


def test_a_chip_without_a_name_goes_by_its_folder(board: Path) -> None:
    """Its sensors count all the same."""
    (board / "class/hwmon/hwmon1/name").unlink()
    assert "hwmon1/temp1" in [reading.sensor for reading in read_temperatures(root=board)]
