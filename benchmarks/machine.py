"""What the figures of a benchmark were taken on."""

from __future__ import annotations

import os
import platform
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LEAST_BYTES = 1 << 30


def processor() -> str:
    """The processor's name, and how many of it there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":")[1].strip() for line in lines if "model name" in line)
    return f"{next(names, platform.machine())}, {os.cpu_count()} cores"


def machine() -> str:
    """The processor, and the versions of what ours runs on."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "grpcio", "numpy"))
    return f"{processor()}, Python {platform.python_version()}, {libraries}"


class Bandwidth:
    """How fast all threads together read memory: four times the largest cache, at least 1 GiB."""

    def __init__(self, threads: int) -> None:
        self._parts: list[NDArray[np.int64]] = np.array_split(np.ones(_out_of_cache_bytes() // 8, np.int64), threads)

    def measure(self) -> float:
        """Bytes/s, once over everything. Numpy's maximum reads with vector loads and lets go of the GIL."""
        threads = [threading.Thread(target=part.max) for part in self._parts]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(part.nbytes for part in self._parts) / (time.perf_counter() - start)


def _out_of_cache_bytes() -> int:
    sizes = [int(size.read_text().strip().removesuffix("K")) << 10 for size in _CACHES.glob("index*/size")]
    return max(_LEAST_BYTES, 4 * max(sizes, default=0))
