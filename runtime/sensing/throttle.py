"""What holds the processor or the graphics back: flags, cooling devices in use, and counters that grow.

- Raspberry Pi: `get_throttled` of its firmware (bits 0 to 3 are what is so now), where there is such a file, and the
  under-voltage alarm of the `rpi_volt` chip, which the kernel asks the firmware for every two seconds.
- Any board: thermal cooling devices that slow something down (Documentation/driver-api/thermal/sysfs-api.rst). Jetsons
  have `*-throttle-alert` and `hot-surface-alert` among them.
- Jetson Orin and Thor: over-current and under-voltage events that the `soctherm_oc` chip counts.
- x86: Documentation/ABI/testing/sysfs-devices-system-cpu, `thermal_throttle/*_throttle_count`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from .files import names_in, read_counter, read_number, read_text
from .hwmon import Chip

HELD_S = 10.0
"""For so long after a counter grew its reason counts: events are short, and readings may be seconds apart."""

_FIRMWARE_FLAGS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_SLOWING = ("*-throttle-alert", "hot-surface-alert", "*cpufreq-*", "*devfreq-*", "Processor", "intel_powerclamp")
_OVER_CURRENT = {"1": "under-voltage", "2": "average over-current", "3": "instantaneous over-current"}
_X86 = {"core_throttle_count": "processor core too hot", "package_throttle_count": "processor package too hot"}


class Throttling:
    """What the machine under `root` has of that."""

    def __init__(self, root: Path, chips: Sequence[Chip]) -> None:
        self._flags = list(_firmware_files(root))
        self._alarms = [str(path) for chip in chips if chip.name == "rpi_volt" for _, path in _under_voltage(chip)]
        self._cooling = list(_cooling_devices(root))
        self._counters = [*_over_current(chips), *_x86_counters(root)]

    def active(self) -> set[str] | None:
        """What is so now; None if nothing answers."""
        flags = [flags for path in self._flags if (flags := _hex(path)) is not None]
        alarms = [alarm for path in self._alarms if (alarm := read_number(path)) is not None]
        cooling = [(kind, state) for kind, path in self._cooling if (state := read_number(path)) is not None]
        if not (flags or alarms or cooling):
            return None
        reasons = {name for word in flags for bit, name in enumerate(_FIRMWARE_FLAGS) if word >> bit & 1}
        reasons |= {_FIRMWARE_FLAGS[0] for alarm in alarms if alarm > 0}
        return reasons | {kind for kind, state in cooling if state > 0}

    def counters(self) -> dict[str, int]:
        """Events since boot, by reason; of several counters the sum."""
        events: dict[str, int] = {}
        for reason, path in self._counters:
            if (count := read_counter(path)) is not None:
                events[reason] = events.get(reason, 0) + count
        return events


class ThrottleEvents:
    """Remembers which counters grew, and when."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._grew_s: dict[str, float] = {}

    def update(self, now_s: float, counters: dict[str, int]) -> set[str]:
        """The reasons whose counters grew since the last call, or within the last `HELD_S` seconds."""
        grew = {reason for reason, count in counters.items() if count > self._seen.get(reason, count)}
        self._seen |= counters
        self._grew_s |= dict.fromkeys(grew, now_s)
        self._grew_s = {reason: when_s for reason, when_s in self._grew_s.items() if now_s - when_s <= HELD_S}
        return set(self._grew_s)


def _firmware_files(root: Path) -> Iterator[str]:
    """`get_throttled` of the firmware, whose node is `soc:firmware` on a Pi 4 and `soc@107c000000:firmware` on a Pi 5.

    Kernels that have the file write one warning to their log when it is first read, which is the end of those that
    were told to panic then.
    """
    if read_number(root / "proc/sys/kernel/panic_on_warn") == 1:
        return
    platform = root / "sys/devices/platform"
    for soc in names_in(platform, "soc"):
        for node in names_in(platform / soc, "soc"):
            if node.endswith(":firmware") and "get_throttled" in names_in(platform / soc / node, "get_throttled"):
                yield str(platform / soc / node / "get_throttled")


def _under_voltage(chip: Chip) -> Iterator[tuple[str, Path]]:
    return chip.channels(r"in(0)_lcrit_alarm")


def _cooling_devices(root: Path) -> Iterator[tuple[str, str]]:
    folder = root / "sys/class/thermal"
    for name in names_in(folder, "cooling_device"):
        kind = read_text(folder / name / "type")
        if kind and any(fnmatchcase(kind, pattern) for pattern in _SLOWING):
            yield kind, str(folder / name / "cur_state")


def _over_current(chips: Sequence[Chip]) -> Iterator[tuple[str, str]]:
    for chip in chips:
        if chip.name == "soctherm_oc":
            for number, path in chip.channels(r"oc(\d)_event_cnt"):
                yield _OVER_CURRENT.get(number, f"over-current {number}"), str(path)


def _x86_counters(root: Path) -> Iterator[tuple[str, str]]:
    folder = root / "sys/devices/system/cpu"
    for name in names_in(folder, "cpu"):
        counters = folder / name / "thermal_throttle"
        for file in names_in(counters):
            if file in _X86:
                yield _X86[file], str(counters / file)


def _hex(path: str) -> int | None:
    text = read_text(path) or ""
    return int(text, 16) if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", text) else None
