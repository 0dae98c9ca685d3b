"""Gives memory back to the system that loading a model leaves behind. Linux and glibc; elsewhere it does nothing."""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
from collections.abc import Callable, Iterator
from pathlib import Path

_M_ARENA_MAX = -8  # malloc.h
_SMAPS = Path("/proc/self/smaps")
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)$")


def use_one_heap() -> None:
    """Makes all threads allocate from one heap: freed memory of one serves the others. To be called before they start.

    glibc gives each thread a heap of its own, and a daemon with a dozen threads keeps the freed parts of a dozen.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def trim_after_load() -> None:
    """What was allocated and freed goes back, and so do pages of code that only loading ran."""
    gc.collect()
    gc.freeze()  # what is there now stays: later collections need not look at it
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    _forget(lambda path, access: path.startswith("/") and "w" not in access)


def forget_file_pages(file: Path) -> None:
    """Takes this process's pages of `file` out of its resident memory; the page cache keeps them while it can.

    ONNX Runtime maps the weights and copies most of them into the layout of its kernels; the mapped pages stay
    resident although few are read again.
    """
    mapped = str(file.resolve())
    _forget(lambda path, _: path == mapped)


def _forget(wanted: Callable[[str, str], bool]) -> None:
    """Drops the pages of mappings that `wanted` says yes to, given path and access such as `r-xp`. A use brings them
    back from the file; mappings with a page that was written to are left alone, so nothing is lost."""
    if not _SMAPS.exists():
        return
    madvise = ctypes.CDLL(None).madvise
    for start, end in _clean_mappings(wanted):
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _clean_mappings(wanted: Callable[[str, str], bool]) -> Iterator[tuple[int, int]]:
    current: tuple[int, int] | None = None
    for line in _SMAPS.read_text().splitlines():
        if found := _MAPPING.match(line):
            current = (int(found[1], 16), int(found[2], 16)) if wanted(found[4], found[3]) else None
        elif current and line.startswith("Private_Dirty:") and line.split()[1] == "0":
            yield current
