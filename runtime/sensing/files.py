"""The kernel's small files. What is not there, does not answer or holds something else is None, never an error."""

from __future__ import annotations

import os
import re
from pathlib import Path

_LIMIT_BYTES = 1 << 20  # /proc/cpuinfo of a big machine; a file that never ends is no sensor
_NUMBER = re.compile(rb"\s*([+-]?[0-9]{1,19})\s*\0*\s*")

PathLike = str | Path


def read_bytes(path: PathLike) -> bytes | None:
    """What the file holds. None on any error: a sensor may vanish, sleep (EAGAIN) or be broken (EIO)."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):  # ValueError: a zero byte in the path
        return None
    try:
        parts = []
        left = _LIMIT_BYTES
        while left > 0 and (part := os.read(file, min(left, 1 << 16))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    except OSError:
        return None
    finally:
        os.close(file)


def read_text(path: PathLike) -> str | None:
    """The same as text without the white space around it; None if nothing is left."""
    content = read_bytes(path)
    return (content.decode("utf-8", "replace").strip("\0 \t\n") or None) if content is not None else None


def read_number(path: PathLike) -> int | None:
    """The one whole number in the file; None if it holds anything else."""
    found = _NUMBER.fullmatch(read_bytes(path) or b"")
    return int(found[1]) if found else None


def read_counter(path: PathLike) -> int | None:
    """A number that is not negative."""
    number = read_number(path)
    return number if number is not None and number >= 0 else None


def names_in(folder: PathLike, prefix: str = "") -> list[str]:
    """Names of what is in `folder` and begins with `prefix`, those with numbers in their order (hwmon2, hwmon10)."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(prefix)]
    except OSError:
        return []
    return sorted(names, key=lambda name: (len(name), name))
