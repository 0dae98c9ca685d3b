"""Arranges memory after a model was loaded: gives back what is not needed, and puts the weights on huge pages.

Linux and glibc; elsewhere it does nothing.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_M_ARENA_MAX = -8  # malloc.h
_MADV_COLLAPSE = 25  # linux/mman.h; Python does not name it
_HUGE_PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_FILLED = 0.95
_MAPS, _SMAPS = Path("/proc/self/maps"), Path("/proc/self/smaps")
_FIELDS = frozenset({"Rss", "Anonymous", "Swap"})
_RESIDENT = re.compile(r"Rss: +[1-9]")
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
    _forget(_clean_mappings(_is_of_a_program))


def trim_after_unload() -> None:
    """What belonged to a model that nobody holds any more goes back to the system."""
    gc.unfreeze()  # or what is left of it in cycles would stay for ever
    trim_after_load()


class MappedFile:
    """What this process has mapped of `file` by now. It must not be written to.

    ONNX Runtime maps the weights and copies most of them into the layout of its kernels. What was read to make the
    copies would stay resident although it is not read again, and every row of the embedding that was ever looked up.
    """

    def __init__(self, file: Path) -> None:
        self._path = str(file.resolve())
        self._mappings = list(_clean_mappings(lambda path, _: path == self._path))

    def forget(self) -> None:
        """Takes the pages out of resident memory. The page cache keeps them while it can; a use brings them back."""
        if self._mappings:  # where another session has unmapped them, something else may be by now
            _forget(set(self._mappings) & set(_mappings_of(self._path)))


def use_huge_pages() -> None:
    """Moves memory that is filled nearly whole, such as a model's weights, to huge pages where the kernel has any.

    A decode reads all weights once, and spends a part of its time on finding where each small page is. Memory of which
    only parts are in use stays as it is: a huge page would take the rest of it too.
    """
    try:
        size = int(_HUGE_PAGE_SIZE.read_text())
    except (OSError, ValueError):
        return
    madvise = ctypes.CDLL(None).madvise
    for start, end in _filled_mappings():
        first, last = -(-start // size) * size, end // size * size
        if first < last:
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_COLLAPSE)  # refused before Linux 6.1


def _is_of_a_program(path: str, access: str) -> bool:
    """Read from a file, for this process alone. What a device maps, as a GPU's driver does, it would not map again."""
    return path.startswith("/") and not path.startswith("/dev/") and access.startswith("r-") and access.endswith("p")


_Mapping = tuple[int, int]  # addresses of its start and its end


def _forget(mappings: Iterable[_Mapping]) -> None:
    madvise = ctypes.CDLL(None).madvise
    for start, end in mappings:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _mappings_of(path: str) -> Iterator[_Mapping]:
    for line in _MAPS.read_text().splitlines():
        if line.endswith(path) and (found := _MAPPING.match(line)) and found[4] == path:
            yield int(found[1], 16), int(found[2], 16)


def _clean_mappings(wanted: Callable[[str, str], bool]) -> Iterator[_Mapping]:
    """Mappings that `wanted` says yes to, given path and access such as `r-xp`; none with a page of its own, in memory
    or swapped out, which would be lost."""
    for mapping, kb in _sizes(wanted):
        if kb["Anonymous"] == kb["Swap"] == 0:
            yield mapping


def _filled_mappings() -> Iterator[_Mapping]:
    """Anonymous memory, the heap included, of which nearly all is resident."""
    for (start, end), kb in _sizes(lambda path, access: access == "rw-p" and path in ("", "[heap]")):
        if kb["Rss"] << 10 > _FILLED * (end - start):
            yield start, end


def _sizes(wanted: Callable[[str, str], bool]) -> Iterator[tuple[_Mapping, dict[str, int]]]:
    """Each mapping that `wanted` says yes to, given path and access, and the fields of smaps that are used, in kB."""
    if not _SMAPS.exists():
        return
    lines = _SMAPS.read_text().splitlines()
    if not any(map(_RESIDENT.match, lines)):  # as qemu has it, of which not one number is known
        return
    current: _Mapping | None = None
    sizes: dict[str, int] = {}
    for line in lines:
        if found := _MAPPING.match(line):
            current = (int(found[1], 16), int(found[2], 16)) if wanted(found[4], found[3]) else None
            sizes = {}
        elif current and line.partition(":")[0] in _FIELDS:
            sizes[line.partition(":")[0]] = int(line.split()[1])
            if len(sizes) == len(_FIELDS):
                yield current, sizes
