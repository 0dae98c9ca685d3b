"""The only way by which anything below the store changes; reading goes past it.

Tests give the store a disk that loses its power after n operations, and with it all that was not synced.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from .errors import StoreBusy

_FILE_MODE = 0o644
_FOLDER_MODE = 0o755
_POLL_S = 0.02


class Disk(Protocol):
    """What may be done to files and folders. Every method raises OSError.

    A file's content survives a power cut from `fsync` on, and a folder's entries from `sync_dir` of it on. A rename
    happens whole or not at all.
    """

    def write(self, path: Path, content: bytes) -> None:
        """A file of that content, whatever was in it before."""

    def append(self, path: Path, content: bytes) -> None:
        """`content` behind what the file has; one that is not there becomes one."""

    def fsync(self, path: Path) -> None:
        """A file's content reaches the disk."""

    def sync_dir(self, path: Path) -> None:
        """The entries of a folder reach the disk."""

    def rename(self, source: Path, target: Path) -> None:
        """A file takes the place of what `target` is; a folder that of nothing or of an empty one."""

    def link(self, source: Path, target: Path) -> None:
        """A second name for a file."""

    def unlink(self, path: Path) -> None:
        """Removes a name of a file."""

    def mkdir(self, path: Path) -> None:
        """A new folder, in one that is there."""

    def rmdir(self, path: Path) -> None:
        """Removes an empty folder."""

    def lock(self, path: Path, wait_s: float) -> AbstractContextManager[None]:
        """Holds the lock file `path`, which the kernel lets go of with the process. Raises StoreBusy."""

    def free_bytes(self, path: Path) -> int:
        """What may still be written where the folder `path` is."""


class LocalDisk:
    """This machine's file system.

    Whatever root does here it does as the user `owner`, for as long as one operation takes: what it makes is then the
    daemon's to replace, and a link that the daemon's user has put in its way leads nowhere that this user could not go.

    Args:
        owner: user and group; None: who runs this.
    """

    def __init__(self, owner: tuple[int, int] | None = None) -> None:
        self._owner = owner if os.geteuid() == 0 else None

    @classmethod
    def for_store(cls, folder: Path) -> LocalDisk:
        """One that works as the owner of `folder`, or of what it will be in; where a user has put a link in the way, as
        that user."""
        way = (folder.absolute(), *folder.absolute().parents)
        links = (path.lstat() for path in way if path.is_symlink())
        status = next((link for link in links if link.st_uid != 0), None)
        status = status or next(path.stat() for path in way if path.exists())
        return cls((status.st_uid, status.st_gid))

    def write(self, path: Path, content: bytes) -> None:
        self._put(path, content, os.O_TRUNC)

    def append(self, path: Path, content: bytes) -> None:
        self._put(path, content, os.O_APPEND)

    def fsync(self, path: Path) -> None:
        self._sync(path, os.O_NOFOLLOW)

    def sync_dir(self, path: Path) -> None:
        self._sync(path, os.O_DIRECTORY)

    def rename(self, source: Path, target: Path) -> None:
        with self._as_owner():
            source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        with self._as_owner():
            os.link(source, target, follow_symlinks=False)

    def unlink(self, path: Path) -> None:
        with self._as_owner():
            path.unlink()

    def mkdir(self, path: Path) -> None:
        with self._as_owner():
            path.mkdir()
            _let_others_read(path.chmod, _FOLDER_MODE)

    def rmdir(self, path: Path) -> None:
        with self._as_owner():
            path.rmdir()

    @contextmanager
    def lock(self, path: Path, wait_s: float) -> Iterator[None]:
        with self._as_owner():
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
        try:
            _hold(handle, path, wait_s)
            if not _is_at(path, handle):  # whoever held it has removed it
                raise StoreBusy(f"somebody else was at work in {path.parent} until now: try again")
            yield
        finally:
            os.close(handle)

    def free_bytes(self, path: Path) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def _put(self, path: Path, content: bytes, how: int) -> None:
        with self._as_owner():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | how, _FILE_MODE)
            with os.fdopen(handle, "wb", buffering=0) as file:
                _let_others_read(partial(os.fchmod, handle), _FILE_MODE)
                left = memoryview(content)
                while left:
                    left = left[file.write(left) :]

    def _sync(self, path: Path, how: int) -> None:
        with self._as_owner():
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | how)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    @contextmanager
    def _as_owner(self) -> Iterator[None]:
        """Only this thread, and only for files: setfsuid(2) also takes root's way past permissions from it."""
        if self._owner is None:
            yield
            return
        user, group = self._owner
        _set_file_user(group, _LIBC.setfsgid)
        _set_file_user(user, _LIBC.setfsuid)
        try:
            yield
        finally:
            _LIBC.setfsuid(os.geteuid())
            _LIBC.setfsgid(os.getegid())


def _let_others_read(chmod: Callable[[int], None], mode: int) -> None:
    """Whatever the umask is. A stick has no modes, and says so in one way or another."""
    try:
        chmod(mode)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


_LIBC = ctypes.CDLL(None)


def _set_file_user(wanted: int, call: Callable[[int], int]) -> None:
    """These calls say who it was before, and never whether they worked."""
    call(wanted)
    if call(wanted) != wanted:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _hold(handle: int, path: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise StoreBusy(f"somebody else is at work in {path.parent}: try again when that is done") from error
            time.sleep(_POLL_S)
        else:
            return
