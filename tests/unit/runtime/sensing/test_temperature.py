"""Temperatures: whatever is in sysfs, what answers is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trees import put

from runtime.sensing.board import Board
from runtime.sensing.temperature import Temperature


def temperatures(root: Path) -> tuple[Temperature, ...]:
    return Board(root).read().temperatures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A zone, and chips with and without labels."""
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", 48250)
    put(tmp_path, "sys/class/thermal/cooling_device0/type", "pwm-fan")
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "nvme")
    put(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", -2850)
    put(tmp_path, "sys/class/hwmon/hwmon0/temp1_label", "Composite")
    put(tmp_path, "sys/class/hwmon/hwmon0/temp1_max", 80000)
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "rp1_adc")
    put(tmp_path, "sys/class/hwmon/hwmon1/temp1_input", 51000)
    put(tmp_path, "sys/class/hwmon/hwmon1/in1_input", 1480)
    return tmp_path


def test_zones_and_chips_are_read_by_name(root: Path) -> None:
    """In degrees, sorted; fans, limits and voltages are not temperatures."""
    assert temperatures(root) == (
        Temperature("cpu-thermal", 48.25),
        Temperature("nvme/Composite", -2.85),
        Temperature("rp1_adc/temp1", 51.0),
    )


@given(name=st.binary(max_size=20), value=st.binary(max_size=20))
@example(name=b"zone", value=b"\x1c0")  # white space to str.strip, not to a number
@settings(max_examples=50)
def test_whatever_a_driver_says_is_a_reading_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, name: bytes, value: bytes
) -> None:
    """Bytes that are neither text nor number raise nothing."""
    root = tmp_path_factory.mktemp("root")
    for folder, file in (("thermal/thermal_zone0", "temp"), ("hwmon/hwmon0", "temp1_input")):
        put(root, f"sys/class/{folder}/{file}", "")
        (root / f"sys/class/{folder}/{file}").write_bytes(value)
        (root / f"sys/class/{folder}/{'type' if file == 'temp' else 'name'}").write_bytes(name)
    for reading in temperatures(root):
        assert reading.sensor
        assert reading.celsius * 1000 == pytest.approx(int(value.decode("ascii").strip("\0 \t\r\n\v\f")))


@pytest.mark.parametrize("garbage", ["", "hot", "48.2", "0x30", "9" * 400, "-", "\x00\x00", "1_000", "-256000"])
def test_a_value_that_is_no_temperature_hides_no_other(root: Path, garbage: str) -> None:
    """A sensor that says anything but a whole number that can be a temperature is skipped, and the rest are read."""
    put(root, "sys/class/thermal/thermal_zone0/temp", garbage)
    put(root, "sys/class/hwmon/hwmon0/temp1_input", garbage)
    assert temperatures(root) == (Temperature("rp1_adc/temp1", 51.0),)


def test_a_chip_without_a_name_goes_by_its_folder(root: Path) -> None:
    """Its sensors count all the same."""
    (root / "sys/class/hwmon/hwmon1/name").unlink()
    assert "hwmon1/temp1" in [reading.sensor for reading in temperatures(root)]
