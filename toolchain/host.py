"""What a report was measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from .variant import TOOLS


def measured_on() -> str:
    """The processor, how many cores this process may use, the day, and the versions that decide what comes out."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = f"{next(names, platform.machine())}, {len(os.sched_getaffinity(0))} cores"
    versions = ", ".join(f"{name} {version(name)}" for name in TOOLS)
    return f"{processor}, {datetime.now(UTC):%Y-%m-%d}; {versions}"
