"""When disk or memory runs out, or a folder cannot be written: one sentence that says so, and what would help."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.errors import BuildError, OutOfDisk, OutOfMemory

# EFBIG is what the limit on a file's size says, of the process or of the filesystem.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset({errno.EACCES, errno.EEXIST, errno.EIO, errno.ENOTDIR, errno.EPERM, errno.EROFS})

# As Python, Rust, C++ and the libraries on them spell it.
_DISK_WORDS = re.compile("|".join(re.escape(os.strerror(number)) for number in sorted(_FULL)), re.IGNORECASE)
_MEMORY_WORDS = re.compile(
    r"\bMemoryError\b|bad_alloc|bad allocation|can't allocate memory|Failed to allocate memory"
    rf"|{os.strerror(errno.ENOMEM)}",
    re.IGNORECASE,
)


@contextmanager
def said(places: Sequence[Path], needed_bytes: int | None = None) -> Iterator[None]:
    """Turns what the system says in the block into OutOfDisk, OutOfMemory or BuildError.

    Args:
        places: the folders that the block writes to.
        needed_bytes: of disk, about, where that is known.
    """
    try:
        yield
    except OutOfDisk as error:
        if needed_bytes is None:
            raise
        raise out_of_disk(places, needed_bytes) from error
    except MemoryError as error:
        raise out_of_memory("the build") from error
    except OSError as error:
        if error.errno in _FULL:
            raise out_of_disk(places, needed_bytes) from error
        if error.errno in _REFUSED:
            raise BuildError(
                f"{error.filename or error} cannot be written ({error.strerror}): choose another --cache or --output"
            ) from error
        raise
    except (RuntimeError, ValueError) as error:  # of torch and onnx, which say it in words
        raise_if_exhausted(str(error), "the build", places, needed_bytes, error)
        raise


def raise_if_exhausted(
    text: str, who: str, places: Sequence[Path], needed_bytes: int | None = None, cause: BaseException | None = None
) -> None:
    """Raises OutOfDisk or OutOfMemory if that is what `text`, an error of `who`, says."""
    if _DISK_WORDS.search(text):
        raise out_of_disk(places, needed_bytes) from cause
    if _MEMORY_WORDS.search(text):
        raise out_of_memory(who) from cause


@contextmanager
def emptied_when_full(scratch: Path) -> Iterator[None]:
    """Removes the folder `scratch` if the block fills the disk: what is there may be cut short, and takes the room."""
    try:
        yield
    except (OutOfDisk, OSError) as error:
        if isinstance(error, OutOfDisk) or error.errno in _FULL:
            shutil.rmtree(scratch, ignore_errors=True)
        raise


def require_room(place: Path, needed_bytes: int) -> None:
    """Raises OutOfDisk if less than `needed_bytes` are free at `place`, which need not exist yet."""
    if shutil.disk_usage(existing(place)).free < needed_bytes:
        raise out_of_disk([place], needed_bytes)


def existing(folder: Path) -> Path:
    """`folder`, or the nearest above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())


def out_of_disk(places: Sequence[Path], needed_bytes: int | None) -> OutOfDisk:
    """Names the place with the least room, of `places` and the folder for temporary files."""
    free = {place: shutil.disk_usage(existing(place)).free for place in (*places, Path(tempfile.gettempdir()))}
    place = min(free, key=lambda each: free[each])
    needed = f", and this build needs about {sized(needed_bytes)}" if needed_bytes else ""
    return OutOfDisk(
        f"no space left on the disk of {place}: {sized(free[place])} are free{needed}; make room, or choose another"
        " --cache or --output"
    )


def out_of_memory(who: str) -> OutOfMemory:
    return OutOfMemory(
        f"{who} ran out of memory, of which {sized(available_memory())} are available now: end other programs, add"
        " swap, or build on a machine with more"
    )


def available_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """MemAvailable of /proc/meminfo, in bytes, or less where a container has less; elsewhere, what the machine has."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", (proc / "meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    machine = int(found[1]) << 10 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min([machine, *_left_by_groups(proc, groups)]))


def _left_by_groups(proc: Path, groups: Path) -> Iterator[int]:
    """What each control group (v2) above this process still lets it have: files that are only cached make room."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for own in (groups / line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
        for group in (own, *own.parents):
            with suppress(OSError, ValueError):  # "max" is no limit, and the root has none
                most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield most - used + int(stat.get("inactive_file", 0))


def sized(size_bytes: int) -> str:
    """In words."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
