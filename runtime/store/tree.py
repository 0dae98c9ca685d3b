"""What is done to all of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..disk import Disk


def sync_tree(disk: Disk, folder: Path) -> None:
    """All files below `folder`, and their names in it, are on the disk when this returns."""
    for path, is_folder in below(folder):
        disk.sync_dir(path) if is_folder else disk.fsync(path)
    disk.sync_dir(folder)


def remove_tree(disk: Disk, path: Path) -> None:
    """Removes a file, or a folder with all that is in it; a link, not what it leads to. Nothing there is as well."""
    if path.is_symlink() or path.is_file():
        disk.unlink(path)
    elif path.is_dir():
        for each, is_folder in below(path):
            disk.rmdir(each) if is_folder else disk.unlink(each)
        disk.rmdir(path)


def disk_bytes(folders: Iterable[Path]) -> int:
    """What the files below all of `folders` take together; one with several names counts once. What somebody removes
    meanwhile counts or does not."""
    found = {}
    for folder in folders:
        with suppress(FileNotFoundError):
            for path, _ in below(folder):
                its = path.lstat()
                found[its.st_dev, its.st_ino] = its.st_blocks * 512
    return sum(found.values())


def below(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Each path, and whether it is a folder, after what is in it."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder:
            yield from below(Path(entry.path))
        yield Path(entry.path), is_folder
