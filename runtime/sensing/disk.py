"""Room on the filesystems of the folders that the daemon uses, and the bytes of their disks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import read_text

_SECTOR_BYTES = 512  # of /proc/diskstats, whatever the disk's are (Documentation/admin-guide/iostats.rst)
_LINE = re.compile(
    r"^\s*(\d{1,9})\s+(\d{1,9})\s+\S+\s+\d+\s+\d+\s+(\d{1,20})\s+\d+\s+\d+\s+\d+\s+(\d{1,20})", re.MULTILINE | re.ASCII
)


@dataclass(frozen=True)
class Disk:
    """A filesystem.

    Args:
        folder: the first of those asked for that is on it.
        free_bytes: what a program without privileges may still write.
        read_bytes: of its disk since boot; None for a filesystem that is not on one disk.
    """

    folder: Path
    total_bytes: int
    free_bytes: int
    read_bytes: int | None
    written_bytes: int | None


def read_disks(root: Path, folders: Sequence[Path]) -> tuple[Disk, ...]:
    """Those of `folders`, each filesystem once; a folder that is not there, or not yet, is looked for above itself."""
    if not folders:
        return ()
    lines = _LINE.findall(read_text(root / "proc/diskstats") or "")
    moved = {(int(major), int(minor)): (int(read), int(written)) for major, minor, read, written in lines}
    disks: dict[int, Disk] = {}
    for folder in folders:
        for device, total_bytes, free_bytes in _room(folder):
            read, written = moved.get((os.major(device), os.minor(device)), (None, None))
            found = Disk(folder, total_bytes, free_bytes, _bytes(read), _bytes(written))
            disks.setdefault(device, found)
    return tuple(disks.values())


def _room(folder: Path) -> Iterator[tuple[int, int, int]]:
    for candidate in (folder, *folder.parents):
        try:
            device, room = candidate.stat().st_dev, os.statvfs(candidate)
        except OSError:
            continue
        yield device, room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
        return


def _bytes(sectors: int | None) -> int | None:
    return None if sectors is None else sectors * _SECTOR_BYTES
