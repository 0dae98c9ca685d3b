"""Gives memory back to the system that loading a model leaves behind. Linux and glibc; elsewhere it does nothing."""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
from collections.abc import Callable, Iterable, Iterator
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
    _forget(_clean_mappings(lambda path, access: path.startswith("/") and "w" not in access))


class MappedFile:
    """The pages of `file` that this process has mapped by now. They must stay mapped, and not be written to.

    ONNX Runtime maps the weights and copies most of them into the layout of its kernels. What was read to make the
    copies would stay resident although it is not read again, and every row of the embedding that was ever looked up.
    """

    def __init__(self, file: Path) -> None:
        mapped = str(file.resolve())
        self._mappings = list(_clean_mappings(lambda path, _: path == mapped))

    def forget(self) -> None:
        """Takes the pages out of resident memory. The page cache keeps them while it can; a use brings them back."""
        _forget(self._mappings)


_Mapping = tuple[int, int]  # addresses of its start and its end


def _forget(mappings: Iterable[_Mapping]) -> None:
    madvise = ctypes.CDLL(None).madvise
    for start, end in mappings:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _clean_mappings(wanted: Callable[[str, str], bool]) -> Iterator[_Mapping]:
    """Mappings that `wanted` says yes to, given path and access such as `r-xp`; none with a page that was written to,
    which would be lost."""
    if not _SMAPS.exists():
        return
    current: _Mapping | None = None
    for line in _SMAPS.read_text().splitlines():
        if found := _MAPPING.match(line):
            current = (int(found[1], 16), int(found[2], 16)) if wanted(found[4], found[3]) else None
        elif current and line.startswith("Private_Dirty:") and line.split()[1] == "0":
            yield current
