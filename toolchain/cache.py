"""The build cache: results under keys of all that they were made from, which appear only when they are whole."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.package import file_digest
from runtime.whole_file import sync

from .progress import Reporter

_SEAL = "digests.json"


def default_cache() -> Path:
    """EDGEQWEN_CACHE, or the user's cache folder (XDG base directory specification)."""
    if own := os.environ.get("EDGEQWEN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeqwen"


def key_of(*parts: str) -> str:
    """SHA-256 over the parts, in hex, as far as file names need it."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@contextmanager
def alone(cache: Path, entry: str, report: Reporter) -> Iterator[None]:
    """Keeps other builds from an entry of the cache while this one looks for it or makes it."""
    locks = cache / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / entry).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with report.stage("waiting for the build that makes the same"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path to write to, which is `target` once the block has ended, also after a power cut; nowhere if it failed."""
    unfinished = target.with_suffix(".tmp")
    try:
        yield unfinished
        sync(unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def seal(folder: Path) -> None:
    """Remembers the contents of a result that is done, all of which is on the disk when this returns."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / _SEAL)
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    (folder / _SEAL).write_text(json.dumps(digests))
    flush(folder)


def is_sound(folder: Path) -> bool:
    """Whether every file that was sealed is as it was; others may have come since. Reads them all."""
    try:
        digests = json.loads((folder / _SEAL).read_bytes())
        return all(file_digest(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


def flush(folder: Path) -> None:
    """Everything below `folder` is on the disk when this returns."""
    for path in [folder, *folder.rglob("*")]:
        sync(path)


def keep(path: Path, data: object) -> None:
    """Writes JSON, whole or not at all."""
    with whole(path) as unfinished:
        unfinished.write_text(json.dumps(data))
