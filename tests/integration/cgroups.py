"""Memory cgroups of the tests' own, where this user may make them: v2, or v1 where that has the memory controller."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MOUNT = Path("/sys/fs/cgroup")


@contextmanager
def memory_cgroup(pid: int, limit_bytes: int) -> Iterator[Callable[[int], object]]:
    """Has the process in a cgroup of this limit, and yields what sets another; what it held before stays with the old
    one. Skips where it cannot."""
    v1 = (MOUNT / "memory" / "memory.limit_in_bytes").is_file()
    folder = (MOUNT / "memory" if v1 else MOUNT) / f"edgeqwen-test-{os.getpid()}-{pid}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        limit = folder / ("memory.limit_in_bytes" if v1 else "memory.max")
        if not limit.is_file():
            pytest.skip(f"{folder.parent} has no memory controller for its children")
        limit.write_text(str(limit_bytes))
        (folder / "cgroup.procs").write_text(str(pid))
        yield lambda size: limit.write_text(str(size))
    finally:
        for left in (folder / "cgroup.procs").read_text().split():
            (folder.parent / "cgroup.procs").write_text(left)
        folder.rmdir()
