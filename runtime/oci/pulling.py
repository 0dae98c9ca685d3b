"""A package from a registry into a folder, for people and for what is not a store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..disk import LocalDisk
from ..errors import TransferError
from ..package import SUFFIX, file_digest
from .contents import Contents, Offer
from .fetching import LOCK_FILE, disk_errors, fetch
from .rate import Rate
from .source import Source

_INCOMING = ".edgeqwen-incoming"


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
    rate: Rate | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Pulled:
    """Makes `folder/NAME.ortpackage`, whole or not at all. Goes on where it was stopped.

    Raises StoreBusy, PackageError, and TransferError, also if there is something else at that place.
    """
    contents = source.contents(offer)
    target, disk = folder / f"{offer.name}{SUFFIX}", LocalDisk()
    with disk_errors(folder):
        if target.exists():
            if _is_there(target, contents):
                return Pulled(target, offer, changed=False)
            raise TransferError(f"{target} is there and is not {offer}: remove it, or choose another --output")
        incoming = folder / _INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        fetched = fetch(source, contents, incoming / target.name, disk, rate=rate, progress=progress)
        disk.rename(incoming / target.name, target)
        disk.sync_dir(folder)
        with suppress(OSError):  # what came of another package is kept
            if [path.name for path in incoming.iterdir()] == [LOCK_FILE]:
                disk.unlink(incoming / LOCK_FILE)
                disk.rmdir(incoming)
    return Pulled(target, offer, changed=True, fetched_bytes=fetched.fetched_bytes, kept_bytes=fetched.kept_bytes)


def _is_there(target: Path, contents: Contents) -> bool:
    """Whether exactly the files of `contents` are at `target`, compared with their digests."""
    files = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if not path.is_dir()}
    return files.keys() == {layer.path for layer in contents.layers} and all(
        files[layer.path].is_file() and file_digest(files[layer.path]) == layer.sha256 for layer in contents.layers
    )
