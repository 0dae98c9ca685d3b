"""What holds a board back: flags of now, alarms, cooling devices, and counters that grow."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import JETSON, PI, X86, board, put
from unit.runtime.sensing.test_board import Clock

from runtime.sensing.board import Board
from runtime.sensing.throttle import HELD_S

PI_FLAGS = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"


@pytest.mark.parametrize(
    ("flags", "reasons"),
    [
        ("0", ()),
        ("1", ("under-voltage",)),
        ("50005", ("throttled", "under-voltage")),
        ("a0000", ()),  # it has been so, and is not now
        ("f000f", ("frequency capped", "soft temperature limit", "throttled", "under-voltage")),
        ("0x8", ("soft temperature limit",)),
    ],
)
def test_flags_of_a_raspberry_pi(flags: str, reasons: tuple[str, ...], tmp_path: Path) -> None:
    """Those of now count, in hexadecimal with or without 0x."""
    root = board(PI, tmp_path)
    put(root, PI_FLAGS, flags)
    assert Board(root).read().throttled == reasons


def test_the_firmware_of_a_raspberry_pi_4(tmp_path: Path) -> None:
    """It has another name there."""
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "4")
    assert Board(tmp_path).read().throttled == ("throttled",)


def test_a_kernel_that_panics_on_warnings_is_not_asked(tmp_path: Path) -> None:
    """Reading the flags makes it warn; the alarm is asked all the same."""
    root = board(PI, tmp_path)
    put(root, "proc/sys/kernel/panic_on_warn", 1)
    put(root, PI_FLAGS, "4")
    put(root, "sys/class/hwmon/hwmon3/in0_lcrit_alarm", 1)
    assert Board(root).read().throttled == ("under-voltage",)


@pytest.mark.parametrize("garbage", ["", "zz", "-1", "1_0", "9" * 40])
def test_flags_that_are_none_say_nothing(garbage: str, tmp_path: Path) -> None:
    """Without any other way to tell, it is not known."""
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", garbage)
    assert Board(tmp_path).read().throttled is None


def test_cooling_devices_that_slow_down_count(tmp_path: Path) -> None:
    """A fan that turns does not; neither does a device that says -1, as powerclamp does while it does nothing."""
    root = board(JETSON, tmp_path)
    put(root, "sys/class/thermal/cooling_device0/cur_state", 4)
    assert Board(root).read().throttled == ()
    put(root, "sys/class/thermal/cooling_device2/cur_state", 1)
    put(root, "sys/class/thermal/cooling_device6/cur_state", 3)
    assert Board(root).read().throttled == ("cpufreq-cpu0", "gpu-throttle-alert")


def test_over_current_counts_while_its_counter_grows(tmp_path: Path) -> None:
    """And a while after; what was counted before the daemon came does not, and a counter that falls was reset."""
    clock = Clock()
    root = board(JETSON, tmp_path)
    sensed = Board(root, clock=clock)
    seen = []
    for count in (4, 6, 6, 6, 2, 2):
        put(root, "sys/class/hwmon/hwmon2/oc3_event_cnt", count)
        seen.append(sensed.read().throttled)
        clock.now_s += HELD_S / 2
    event = ("instantaneous over-current",)
    assert seen == [(), event, event, event, (), ()]


def test_counters_of_an_x86_box(tmp_path: Path) -> None:
    """Core and package have each their own, of all cores together."""
    clock = Clock()
    root = board(X86, tmp_path)
    sensed = Board(root, clock=clock)
    assert sensed.read().throttled == ()
    put(root, "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 4)
    clock.now_s += 3600
    assert sensed.read().throttled == ("processor core too hot",)
