"""The memory limit of this process's control group (Documentation/admin-guide/cgroup-v2.rst), as systemd sets it."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from .sensing.files import read_counter, read_text


def read_memory_use(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """What the group with the nearest limit uses, and that limit, in bytes; (None, None) where there is no limit.

    `memory.high` counts too: above it the kernel takes memory back and slows down who wants more.
    """
    found = re.search(r"^0::(/.*)$", read_text(root / "proc/self/cgroup") or "", re.MULTILINE)
    if found is None:
        return None, None
    own = PurePosixPath(found[1])
    uses = []
    for group in (own, *own.parents):
        folder = root / "sys/fs/cgroup" / str(group).lstrip("/")
        limits = [limit for name in ("memory.max", "memory.high") if (limit := read_counter(folder / name)) is not None]
        current = read_counter(folder / "memory.current")
        if limits and current is not None:
            uses.append((current, min(limits)))
    return max(uses, key=lambda use: use[0] / max(1, use[1]), default=(None, None))
