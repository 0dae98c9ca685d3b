"""Cores: what they did (/proc/stat), how fast they run (cpufreq), and how many programs want them (/proc/loadavg)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .files import names_in, read_bytes, read_counter, read_text

_CORE = re.compile(rb"^cpu(\d{1,5})((?: \d{1,20}){4,}) *$", re.MULTILINE)
_IDLE, _IOWAIT, _GUEST = 3, 4, 8  # places in a line of /proc/stat; guests are in user and nice too


@dataclass(frozen=True)
class Core:
    """A core that is on line.

    Args:
        number: the kernel's.
        busy_s: seconds of work since boot.
        total_s: the same and seconds without.
        frequency_hz: now; None if the kernel does not tell.
        max_frequency_hz: what the hardware could.
    """

    number: int
    busy_s: float
    total_s: float
    frequency_hz: int | None = None
    max_frequency_hz: int | None = None


class Cores:
    """The cores under `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        folder = root / "sys/devices/system/cpu/cpufreq"
        policies = [folder / name for name in names_in(folder, "policy")]
        self._policies = [
            (str(policy / "scaling_cur_freq"), read_counter(policy / "cpuinfo_max_freq"), _list(policy))
            for policy in policies
        ]

    def read(self) -> tuple[Core, ...]:
        """By number."""
        frequencies: dict[int, tuple[int | None, int | None]] = {}
        for path, highest_khz, members in self._policies:
            khz = read_counter(path)
            frequencies |= dict.fromkeys(members, (_hz(khz), _hz(highest_khz)))
        cores = []
        for found in _CORE.finditer(read_bytes(self._root / "proc/stat") or b""):
            ticks = [int(field) for field in found[2].split()][:_GUEST]
            idle = ticks[_IDLE] + sum(ticks[_IOWAIT : _IOWAIT + 1])
            number, total = int(found[1]), sum(ticks)
            cores.append(
                Core(
                    number,
                    (total - idle) * self._tick_s,
                    total * self._tick_s,
                    *frequencies.get(number, (None, None)),
                )
            )
        return tuple(sorted(cores, key=lambda core: core.number))


def read_load_1m(root: Path) -> float | None:
    """One-minute load average."""
    found = re.match(r"\d{1,9}\.\d\d(?= )", read_text(root / "proc/loadavg") or "")
    return float(found[0]) if found else None


def _list(policy: Path) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\b\d{1,5}\b", read_text(policy / "affected_cpus") or "", re.ASCII))


def _hz(khz: int | None) -> int | None:
    return None if khz is None else khz * 1000
