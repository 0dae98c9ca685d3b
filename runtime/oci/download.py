"""One blob, whole and as its digest says, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ..disk import Disk
from ..errors import PackageCorrupt, PackageError, RemoteUnavailable, TransferError
from .contents import Layer
from .remote import Remote
from .source import Source


class Download:
    """One blob, to `part`.

    Args:
        come: is told of bytes that came, and of bytes that had come before; both may be less than none, where what came
            was no good.
    """

    def __init__(
        self,
        source: Source,
        layer: Layer,
        part: Path,
        disk: Disk,
        come: Callable[[int, int], None],
    ) -> None:
        self._source, self._layer, self._part = source, layer, part
        self._disk, self._come = disk, come
        self._remotes = list(source.remotes)
        self._hash = hashlib.sha256()
        self._size = self._kept = 0
        self._from: set[str] = set()  # where the bytes in `part` came from
        self._again = 2 * len(self._remotes)  # how often bytes of several origins may be no good

    def run(self) -> None:
        """Raises PackageError and TransferError; RemoteUnavailable if it goes on another time."""
        self._take_up()
        failures = 0
        while not self._is_whole():
            before, remote = self._size, self._remotes[0]
            try:
                self._read(remote)
            except RemoteUnavailable as error:
                failures = 1 if self._size > before else failures + 1
                if failures > self._source.patience.retries * len(self._remotes):
                    raise
                self._remotes.append(self._remotes.pop(0))
                self._source.patience.wait(failures, error.retry_after_s)
            except (PackageError, TransferError) as error:
                self._leave(remote, error)

    def _take_up(self) -> None:
        """What an earlier fetch left."""
        if not is_file(self._part):
            return
        with self._part.open("rb") as file:
            while chunk := file.read(1 << 20):
                self._hash.update(chunk)
                self._size += len(chunk)
        self._kept = self._size
        self._from = {"an earlier fetch"}
        self._come(0, self._size)
        if self._size > self._layer.size_bytes:
            self._drop()

    def _is_whole(self) -> bool:
        """Whether all is there and is what it should be. What is not is dropped: then it begins anew."""
        if self._size < self._layer.size_bytes:
            return False
        if self._size == self._layer.size_bytes and self._hash.hexdigest() == self._layer.sha256:
            if self._size == 0:
                self._disk.write(self._part, b"")
            return True
        origins = self._from
        self._drop()
        what = f"{self._layer.path} ({self._layer.sha256[:12]}...)"
        if len(origins) == 1 and (liars := [remote for remote in self._remotes if remote.name in origins]):
            self._leave(liars[0], PackageCorrupt(f"{liars[0].name} has something else in the place of {what}"))
        elif self._again == 0:
            raise PackageCorrupt(f"{' and '.join(sorted(origins))} have something else in the place of {what}")
        else:
            self._again -= 1
            self._source.note(f"what there was of {what} is damaged: fetching it anew")
        return False

    def _read(self, remote: Remote) -> None:
        before = self._size
        with closing(remote.blob(self._layer.sha256, self._size)) as chunks:
            for chunk in chunks:
                self._from.add(remote.name)
                if self._size + len(chunk) > self._layer.size_bytes:
                    self._size += len(chunk)  # longer than it may be, so it is none
                    self._come(len(chunk), 0)
                    return
                self._disk.append(self._part, chunk)
                self._hash.update(chunk)
                self._size += len(chunk)
                self._come(len(chunk), 0)
        if self._size == before:
            has = f"{self._size} of {self._layer.size_bytes} bytes of {self._layer.path}"
            raise PackageCorrupt(f"{remote.name} has only {has}: it was not copied whole")
        if self._size < self._layer.size_bytes:
            raise RemoteUnavailable(f"{remote.name} broke off {self._layer.path} at byte {self._size}")

    def _drop(self) -> None:
        if self._part.exists():
            self._disk.unlink(self._part)
        self._come(self._kept - self._size, -self._kept)
        self._hash = hashlib.sha256()
        self._size = self._kept = 0
        self._from = set()

    def _leave(self, remote: Remote, error: PackageError | TransferError) -> None:
        """Does without `remote` for this blob. Raises `error` if none is left."""
        self._remotes.remove(remote)
        if not self._remotes:
            raise error
        self._source.note(f"{error}; asking the next")


def is_file(path: Path, size_bytes: int | None = None) -> bool:
    """Whether it is a plain file, of that size."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and size_bytes in (None, found.st_size)
