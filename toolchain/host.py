"""The machine that builds and measures."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from .variant import TOOLS


def cores() -> int:
    """Those that this process may use (taskset, cgroup cpuset)."""
    return len(os.sched_getaffinity(0))


def measured_on() -> str:
    """The processor, how many cores this process may use, the day, and the versions that decide what comes out."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = f"{next(names, platform.machine())}, {cores()} cores"
    versions = ", ".join(f"{name} {version(name)}" for name in TOOLS)
    return f"{processor}, {datetime.now(UTC):%Y-%m-%d}; {versions}"
