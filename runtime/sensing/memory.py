"""Memory (/proc/meminfo), and how much work waits for it, for the cores and for disks.

The latter is PSI: Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .files import read_text


@dataclass(frozen=True)
class Memory:
    """In bytes; `available_bytes` is what the kernel can give out without swapping."""

    total_bytes: int | None = None
    available_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None


@dataclass(frozen=True)
class Pressure:
    """Percent of the time that some work, and that all work, waited; means over 10 and over 60 seconds."""

    some_avg10: float
    some_avg60: float
    full_avg10: float | None = None
    full_avg60: float | None = None


def read_memory(root: Path) -> Memory:
    """What /proc/meminfo says."""
    text = read_text(root / "proc/meminfo") or ""
    found = {name: int(kb) << 10 for name, kb in re.findall(r"^(\w+):\s+(\d{1,15}) kB$", text, re.MULTILINE | re.ASCII)}
    return Memory(found.get("MemTotal"), found.get("MemAvailable"), found.get("SwapTotal"), found.get("SwapFree"))


def read_pressure(root: Path, resource: str) -> Pressure | None:
    """Of "memory", "cpu" or "io"; None for a kernel that does not count it (`psi=0`, as Raspberry Pi OS has it)."""
    averages = {
        kind: (float(ten), float(sixty))
        for kind, ten, sixty in re.findall(
            r"^(some|full) avg10=(\d{1,3}\.\d\d) avg60=(\d{1,3}\.\d\d) ",
            read_text(root / "proc/pressure" / resource) or "",
            re.MULTILINE | re.ASCII,
        )
    }
    return Pressure(*averages["some"], *averages.get("full", (None, None))) if "some" in averages else None
