"""The processor: which one it is, and how fast its cores are against each other.

Read from /proc/cpuinfo and sysfs (Documentation/ABI/testing/sysfs-devices-system-cpu).
"""

from __future__ import annotations

import os
import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

_X86_NAME = ("vendor_id", "cpu family", "model", "stepping", "model name")
_ARM_NAME = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision")


@dataclass(frozen=True)
class Cpu:
    """What this process may compute on.

    Args:
        model: names the kinds of cores, those of a big.LITTLE processor joined by ` + `.
        capacities: of every physical core, the fastest first; only their ratios mean something. Two threads of one
            core count as one: matrix products gain nothing from the second.
    """

    model: str
    capacities: tuple[int, ...]

    @property
    def identity(self) -> str:
        """The same on machines where the same settings are right, such as `0x41 8 0x4 0xd0b 1; 4 x 1024`."""
        kinds = sorted(set(self.capacities), reverse=True)
        return f"{self.model}; {', '.join(f'{self.capacities.count(kind)} x {kind}' for kind in kinds)}"


def read_cpu(root: Path = Path("/"), allowed: Set[int] | None = None) -> Cpu:
    """Reads /proc and /sys under `root`; `allowed` are the logical processors that may be used, unset: by affinity."""
    allowed = os.sched_getaffinity(0) if allowed is None else allowed
    cores: dict[str, int] = {}
    for number in sorted(allowed):
        folder = root / f"sys/devices/system/cpu/cpu{number}"
        siblings = _text(folder / "topology/thread_siblings_list") or str(number)
        cores.setdefault(siblings, _capacity(folder))
    return Cpu(" + ".join(_models(root, allowed)) or "unknown", tuple(sorted(cores.values(), reverse=True)))


class OtherPrograms:
    """How much of the cores other programs use, from when this is made: they disturb whoever measures."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._stat = root / "proc/stat"
        self._began = self._read()

    def busy_share(self) -> float:
        """Of all cores' time, 0 to 1. What this process used is not in it."""
        (busy, whole, own), (busy_then, whole_then, own_then) = self._read(), self._began
        return min(1.0, max(0.0, (busy - busy_then - (own - own_then)) / max(whole - whole_then, 1e-9)))

    def _read(self) -> tuple[float, float, float]:
        """Seconds of all cores when they were busy, all in all, and of this process."""
        ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in self._stat.read_text().split("\n")[0].split()[1:9]]
        own = os.times()
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks), own.user + own.system


def _capacity(folder: Path) -> int:
    """What the kernel schedules by where cores differ, else the highest frequency; 1 where neither is told."""
    for file in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        text = _text(folder / file)
        if text and text.isdecimal() and int(text) > 0:
            return int(text)
    return 1


def _models(root: Path, allowed: Set[int]) -> list[str]:
    """The kinds of cores that are allowed, each once, in the order of /proc/cpuinfo."""
    models: dict[str, None] = {}
    for block in re.split(r"\n\s*\n", _text(root / "proc/cpuinfo") or ""):
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        number = fields.get("processor", "")
        if number.isdecimal() and int(number) in allowed:
            name = [fields[key] for key in (*_X86_NAME, *_ARM_NAME) if key in fields]
            models[" ".join(name)] = None
    return [model for model in models if model]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # not every kernel has every file
        return None
