"""Energy: counters that come round, are reset or vanish, and wattages between readings."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import JETSON, X86, board, put

from runtime.sensing.board import Board
from runtime.sensing.power import EnergyCounter, EnergyMeter, Power, Rail

RANGE_J = 262_143.0


def package(joules: float) -> list[EnergyCounter]:
    return [EnergyCounter("package-0", joules, RANGE_J)]


def test_a_counter_that_comes_round_goes_on() -> None:
    """What was left to its end and what it has counted since are one."""
    meter = EnergyMeter()
    meter.update(10.0, [], package(RANGE_J - 5.0), 0.0)
    power = meter.update(11.0, [], package(15.0), 0.0)
    assert (power.watts, power.joules, power.joules_since_s) == (pytest.approx(20.0), pytest.approx(20.0), 10.0)


def test_a_counter_that_was_reset_starts_again() -> None:
    """No board uses what a whole round would be; and what was used meanwhile is not known."""
    meter = EnergyMeter()
    meter.update(10.0, [], package(100_000.0), 0.0)
    meter.update(11.0, [], package(100_010.0), 0.0)
    power = meter.update(12.0, [], package(1.0), 0.0)
    assert power == Power(None, ("package-0",), 0.0, 12.0)
    assert meter.update(13.0, [], package(4.0), 0.0).joules == pytest.approx(3.0)


def test_a_counter_without_a_range_that_falls_says_nothing() -> None:
    """It cannot have come round, as far as anybody knows."""
    meter = EnergyMeter()
    meter.update(10.0, [], [EnergyCounter("package-0", 50.0, None)], 0.0)
    assert meter.update(11.0, [], [EnergyCounter("package-0", 40.0, None)], 0.0).watts is None


def test_a_time_in_which_it_may_have_come_round_twice_is_not_counted() -> None:
    """Nothing is said rather than something wrong."""
    meter = EnergyMeter()
    meter.update(10.0, [], package(0.0), 0.0)
    assert meter.update(10.0 + RANGE_J, [], package(1000.0), 0.0).watts is None


def test_wattages_are_added_up_between_readings() -> None:
    """By their mean; over a long gap nothing is known, and counting starts again."""
    meter = EnergyMeter()
    assert meter.update(0.0, [Rail("VDD_IN", 4.0)], [], 0.0) == Power(4.0, ("VDD_IN",), 0.0, 0.0)
    assert meter.update(2.0, [Rail("VDD_IN", 6.0)], [], 0.0) == Power(6.0, ("VDD_IN",), 10.0, 0.0)
    assert meter.update(60.0, [Rail("VDD_IN", 5.0)], [], 0.0) == Power(5.0, ("VDD_IN",), 0.0, 60.0)


def test_a_board_uses_no_less_than_nothing() -> None:
    """Whatever a sensor says whose shunt is a little off."""
    assert EnergyMeter().update(0.0, [Rail("VDD_IN", -0.1)], [], 0.0) == Power(0.0, ("VDD_IN",), 0.0, 0.0)


def test_what_the_whole_board_uses_is_counted_once() -> None:
    """The input before parts of it, the platform before its packages, cards beside packages only."""
    inner = [Rail("VDD_IN", 9.0), Rail("VDD_SOC", 2.0)]
    assert EnergyMeter().update(0.0, inner, package(1.0), 30.0).covers == ("VDD_IN",)
    orin = [Rail("VDD_GPU_SOC", 3.0), Rail("VDD_CPU_CV", 1.0), Rail("VIN_SYS_5V0", 4.0), Rail("VDDQ_VDD2_1V8AO", 2.0)]
    assert EnergyMeter().update(0.0, orin, [], 0.0).watts == 8.0
    both = [*package(1.0), EnergyCounter("psys", 1.0, RANGE_J)]
    assert EnergyMeter().update(0.0, [], both, 30.0).covers == ("psys",)
    assert EnergyMeter().update(0.0, [Rail("nvme/power1", 2.0)], [], 30.0) == Power()
    meter = EnergyMeter()
    meter.update(0.0, [], package(1.0), 30.0)
    assert meter.update(1.0, [], package(11.0), 30.0) == Power(40.0, ("package-0", "gpu"), 40.0, 0.0)


def test_channels_that_are_no_rails_are_none(tmp_path: Path) -> None:
    """Shunt voltages, the sum, and what is not connected."""
    root = board(JETSON, tmp_path)
    put(root, "sys/class/hwmon/hwmon1/in3_label", "NC")
    assert [rail.name for rail in Board(root).read().rails] == ["VDD_CPU_GPU_CV", "VDD_IN"]


def test_other_chips_tell_their_power(tmp_path: Path) -> None:
    """In microwatts, the mean only where there is nothing else."""
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "ina226")
    put(tmp_path, "sys/class/hwmon/hwmon0/power1_input", 2_500_000)
    put(tmp_path, "sys/class/hwmon/hwmon0/power1_average", 9_000_000)
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "power_meter")
    put(tmp_path, "sys/class/hwmon/hwmon1/power1_average", 31_000_000)
    reading = Board(tmp_path).read()
    assert reading.rails == (Rail("ina226/power1", 2.5), Rail("power_meter/power1", 31.0))
    assert (reading.power_watts, reading.power.covers) == (31.0, ("power_meter/power1",))


def test_energy_that_only_root_may_read_is_absent(tmp_path: Path) -> None:
    """As kernels since 5.10 have it: no error, and no power."""
    root = board(X86, tmp_path)
    for zone in ("intel-rapl:0", "intel-rapl:0:1"):
        (root / "sys/class/powercap" / zone / "energy_uj").unlink()
        (root / "sys/class/powercap" / zone / "energy_uj").mkdir()
    assert Board(root).read().power == Power()
