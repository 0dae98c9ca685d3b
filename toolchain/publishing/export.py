"""A package into an OCI image layout, such as on a USB stick; several packages and tags may be in one.

Written so that it also works on vfat, which has no links: blobs by digest, each renamed into its place when it is
whole, then index.json, which is replaced last. No link that a stick has is followed.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runtime.disk import LocalDisk
from runtime.errors import TransferError
from runtime.oci.contents import EMPTY_CONTENT
from runtime.oci.documents import INDEX_TYPE, Descriptor, digest_of, encoded
from runtime.oci.layout import BLOBS, INDEX_FILE, LAYOUT_VERSION, REF_NAME, read_layout
from runtime.oci.reference import LAYOUT_FILE
from runtime.package import file_digest

from ..progress import Reporter
from .publication import MEGABYTE, Publication

_OF_STICKS = frozenset({"System Volume Information", "lost+found", ".Trash-1000", ".fseventsd", ".Spotlight-V100"})
"""What operating systems leave on a stick that is otherwise empty."""

_UNFINISHED = ".new"
_DISK = LocalDisk()


@dataclass(frozen=True)
class Exported:
    """What became of it.

    Args:
        changed: whether the tag named something else, or nothing.
        written_bytes: of files that the layout had not.
        present_bytes: of files that it had.
    """

    tag: str
    changed: bool
    written_bytes: int
    present_bytes: int


def export(package: Publication, layout: Path, tag: str | None, reporter: Reporter) -> Exported:
    """Adds `package` to the layout at `layout`, which is made if it is not there; NAME-VERSION is the tag by default.

    Raises TransferError, and PackageCorrupt if what is at `layout` is something else.
    """
    tag = tag or f"{package.name}-{package.version}"
    written = present = 0
    with _write_errors(layout), _alone(layout):
        entries = _entries(layout)
        with reporter.stage("exporting, MB") as stage:
            for sha256, (path, size) in package.blobs.items():
                stage.update((written + present) // MEGABYTE, package.size_bytes // MEGABYTE, path.name)
                if _has(layout, sha256, size):
                    present += size
                else:
                    with path.open("rb") as file:
                        _put(layout / BLOBS / sha256, file)
                    written += size
            for content in (EMPTY_CONTENT, *package.manifests.values(), package.index):
                sha256 = digest_of(content).removeprefix("sha256:")
                if not _has(layout, sha256, len(content)):
                    _put(layout / BLOBS / sha256, io.BytesIO(content))
        changed = _name(layout, entries, tag, package)
    return Exported(tag, changed, written, present)


def _entries(layout: Path) -> list[dict[str, Any]]:
    """What the layout has by now, as whoever wrote it did; an empty folder becomes a layout."""
    if not (layout / LAYOUT_FILE).is_file():
        if any(path.name not in _OF_STICKS | {f"{LAYOUT_FILE}{_UNFINISHED}"} for path in layout.iterdir()):
            raise TransferError(f"{layout} is neither empty nor an OCI image layout: choose another folder")
        _put(layout / LAYOUT_FILE, io.BytesIO(json.dumps(LAYOUT_VERSION).encode()))
    if not (layout / INDEX_FILE).exists():
        _put(layout / INDEX_FILE, io.BytesIO(_index_json([])))
    read_layout(layout)
    (layout / BLOBS).mkdir(parents=True, exist_ok=True)
    for path in (layout / BLOBS).glob(f"*{_UNFINISHED}"):
        path.unlink()
    entries: list[dict[str, Any]] = json.loads((layout / INDEX_FILE).read_bytes())["manifests"]
    return entries


def _name(layout: Path, entries: list[dict[str, Any]], tag: str, package: Publication) -> bool:
    """Gives `package` the name `tag`. Whether that changed anything."""
    entry = Descriptor(
        media_type=INDEX_TYPE,
        digest=package.digest,
        size=len(package.index),
        annotations={REF_NAME: tag},
    )
    named = json.loads(encoded(entry))
    others = [each for each in entries if (each.get("annotations") or {}).get(REF_NAME) != tag]
    if named in entries and len(others) == len(entries) - 1:
        return False
    _put(layout / INDEX_FILE, io.BytesIO(_index_json([*others, named])))
    return True


def _index_json(entries: list[dict[str, Any]]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}, indent=1).encode()


def _has(layout: Path, sha256: str, size_bytes: int) -> bool:
    """A blob is read, too: sticks wear out."""
    path = layout / BLOBS / sha256
    return path.is_file() and path.stat().st_size == size_bytes and file_digest(path) == sha256


def _put(path: Path, content: BinaryIO) -> None:
    """A file that is there whole, and on the disk, or not at all."""
    new = path.with_name(f"{path.name}{_UNFINISHED}")
    new.unlink(missing_ok=True)
    _DISK.write(new, b"")
    while chunk := content.read(1 << 20):
        _DISK.append(new, chunk)
    _DISK.fsync(new)
    _DISK.rename(new, path)
    _DISK.sync_dir(path.parent)


@contextmanager
def _alone(layout: Path) -> Iterator[None]:
    """Whoever writes to the layout locks its folder; others wait."""
    layout.mkdir(parents=True, exist_ok=True)
    folder = os.open(layout, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextmanager
def _write_errors(layout: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            hint = "its file system takes no file as large as this: vfat ends at 4 GiB, use ext4 or exFAT"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "make room and do the same again, what was written is kept"
        else:
            hint = "is it there, and may you write to it?"
        raise TransferError(f"cannot write to {layout} ({error.strerror}): {hint}") from error
