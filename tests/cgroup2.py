"""Cgroups (v2) of the tests' own: whatever is started in one ends with it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def mounts() -> list[Path]:
    """Where this machine has them; beside those of version 1 on some, nowhere on others."""
    lines = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(fields[1]) for fields in lines if fields[2] == "cgroup2"]


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """A new one; at the end everything in it is killed and it is removed."""
    cgroup = mounts()[0] / f"edgeqwen-test-{secrets.token_hex(4)}"
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        kill(cgroup)
        remove(cgroup)


def kill(cgroup: Path) -> None:
    """Everything in it, and in those below it, at once. Returns when the kernel has done so."""
    (cgroup / "cgroup.kill").write_text("1")
    while "populated 1" in (cgroup / "cgroup.events").read_text():
        os.sched_yield()


def remove(cgroup: Path) -> None:
    """With those below it, in which nothing runs any more."""
    for folder in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
        folder.rmdir()
    cgroup.rmdir()
