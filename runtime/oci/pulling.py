"""A package from a registry into a folder, for people and for what is not a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..disk import Disk, LocalDisk
from ..errors import StoreBusy, TransferError
from ..package import SUFFIX, file_digest
from .contents import Contents, Offer
from .download import is_file
from .fetching import disk_errors, fetch
from .source import Source

_INCOMING = ".edgeqwen-incoming"
_LOCK_FILE = "lock"


@dataclass(frozen=True)
class Pulled:
    """What is at `path`. `changed` is false if it was there before; the rest is as `Fetched` has it."""

    path: Path
    offer: Offer
    changed: bool
    fetched_bytes: int = 0
    kept_bytes: int = 0


def pull_into(
    folder: Path,
    source: Source,
    offer: Offer,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    disk: Disk | None = None,
) -> Pulled:
    """Makes `folder/NAME.ortpackage`, whole or not at all. Goes on where it was stopped.

    Raises StoreBusy, PackageError, and TransferError, also if there is something else at that place.
    """
    contents = source.contents(offer)
    target, disk = folder / f"{offer.name}{SUFFIX}", disk or LocalDisk()
    with disk_errors(folder):
        if _is_there(target, contents):
            return Pulled(target, offer, changed=False)
        incoming = folder / _INCOMING
        with _alone(incoming, disk):
            if _is_there(target, contents):  # somebody else has just done it
                return Pulled(target, offer, changed=False)
            fetched = fetch(source, contents, incoming / target.name, disk, progress=progress)
            disk.rename(incoming / target.name, target)
            disk.sync_dir(folder)
    return Pulled(target, offer, changed=True, fetched_bytes=fetched.fetched_bytes, kept_bytes=fetched.kept_bytes)


@contextmanager
def _alone(incoming: Path, disk: Disk) -> Iterator[None]:
    """Makes `incoming`, and has it for itself until what came is in its place. Raises StoreBusy."""
    incoming.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(disk.lock(incoming / _LOCK_FILE, 0.0))
        except FileNotFoundError as error:
            raise StoreBusy(f"somebody else was at work in {incoming} until now: try again") from error
        yield
        with suppress(OSError):  # what came of another package is kept
            if [path.name for path in incoming.iterdir()] == [_LOCK_FILE]:
                disk.unlink(incoming / _LOCK_FILE)
                disk.rmdir(incoming)


def _is_there(target: Path, contents: Contents) -> bool:
    """Whether exactly the files of `contents` are at `target`, compared with their digests.

    Raises TransferError if something else is.
    """
    if not os.path.lexists(target):
        return False
    files = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if not path.is_dir()}
    if files.keys() == {layer.path for layer in contents.layers} and all(
        is_file(files[layer.path], layer.size_bytes) and file_digest(files[layer.path]) == layer.sha256
        for layer in contents.layers
    ):
        return True
    raise TransferError(f"{target} is there and is not {contents.offer}: remove it, or choose another --output")
