"""How much memory is left for this process: by its cgroup and those around it, and by the machine.

Reads cgroup v2 (Documentation/admin-guide/cgroup-v2.rst), v1 where the memory controller is still there, as on
JetPack 5, and /proc/meminfo. A board whose kernel has no memory controller, as Raspberry Pi OS has by default, is read
by its machine's figures alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .pressure import MemoryReading
from .sensing.files import read_counter, read_text

_UNLIMITED = 1 << 60  # what v1 says instead of a word is near 1 << 63
_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")


@dataclass(frozen=True)
class _Names:
    """What a version of cgroups calls its files, and fields in them."""

    limits: tuple[str, ...]
    usage: str
    prefix: str
    kills: tuple[str, str]


_V1 = _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_", ("memory.oom_control", "oom_kill"))
_V2 = _Names(("memory.max", "memory.high"), "memory.current", "", ("memory.events", "oom"))


def read_memory(root: Path = Path("/")) -> MemoryReading | None:
    """Reads /proc and /sys/fs/cgroup under `root`; None where they say nothing of memory."""
    folders, names = _cgroup(root)
    rooms = [room for folder in folders if (room := _room(folder, names))]
    if machine := _machine(root):
        rooms.append(machine)
    if not rooms:
        return None
    free, limit = min(rooms)
    file, field = names.kills
    stalls = [_stalled(folder / "memory.pressure") for folder in folders[:1]] + [
        _stalled(root / "proc/pressure/memory")
    ]
    return MemoryReading(
        limit_bytes=limit,
        free_bytes=free,
        stalled=next((each for each in stalls if each is not None), None),
        kills=_fields(folders[0] / file).get(field, 0) if folders else 0,
    )


def available_bytes(root: Path = Path("/")) -> int | None:
    """What this process may still take; None where nobody tells."""
    reading = read_memory(root)
    return reading.free_bytes if reading else None


def read_group_use(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """What the cgroup that has least free uses, page cache aside, and its limit, in bytes; None twice without one."""
    folders, names = _cgroup(root)
    free, limit = min((room for folder in folders if (room := _room(folder, names))), default=(None, None))
    return (None, None) if free is None or limit is None else (limit - free, limit)


def _cgroup(root: Path) -> tuple[list[Path], _Names]:
    """The folders of this process's memory cgroup and of those around it, the innermost first."""
    mount = root / "sys/fs/cgroup"
    v1, v2 = None, None
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if "memory" in controllers.split(","):
            v1 = path
        elif not controllers:
            v2 = path
    if v1 is not None:
        return list(_around(mount / "memory", v1, _V1.usage)), _V1
    return list(_around(mount, v2 or "/", _V2.usage)), _V2


def _around(mount: Path, path: str, file: str) -> Iterator[Path]:
    """Those of the path's folders that have `file`: a container does not see all of them."""
    inside = PurePosixPath(path.removesuffix(" (deleted)").lstrip("/"))
    for each in (inside, *inside.parents):
        if (mount / each / file).is_file():
            yield mount / each


def _room(folder: Path, names: _Names) -> tuple[int, int] | None:
    """(free, limit) in bytes; None where there is no limit."""
    limits = [
        value for name in names.limits if (value := read_counter(folder / name)) is not None and value < _UNLIMITED
    ]
    usage = read_counter(folder / names.usage)
    if not limits or usage is None:
        return None
    stat = _fields(folder / "memory.stat")
    reclaimable = sum(stat.get(names.prefix + name, 0) for name in _RECLAIMABLE)
    return min(limits) - max(0, usage - reclaimable), min(limits)


def _machine(root: Path) -> tuple[int, int] | None:
    found = dict(re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE))
    if len(found) < 2:
        return None
    return int(found["MemAvailable"]) << 10, int(found["MemTotal"]) << 10


def _stalled(file: Path) -> float | None:
    found = re.search(r"^some avg10=(\d+\.\d+)", _text(file), re.MULTILINE)
    return float(found[1]) / 100 if found else None


def _fields(file: Path) -> dict[str, int]:
    """Of a file of names and numbers."""
    return {name: int(number) for name, number in re.findall(r"^(\w+) (\d+)$", _text(file), re.MULTILINE)}


def _text(file: Path) -> str:
    return read_text(file) or ""
