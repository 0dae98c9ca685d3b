"""Run by test_kills: updates a store in children that kill themselves before their n-th operation, for every n.

It is a program of its own, as a process that forks had better have no threads.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unit.runtime.store.stocked import add, serves, switch

from runtime.disk import LocalDisk
from runtime.store.store import Store


class DyingDisk:
    """This machine's disk, under a process that SIGKILL ends before an operation."""

    def __init__(self, operations: int) -> None:
        self._disk, self._left = LocalDisk(), operations

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        operation: Callable[..., Any] = getattr(self._disk, name)
        return operation


def main(folder: Path) -> None:
    """Prints what served after each."""
    before = Store(folder / "before")
    switch(before, add(before, folder / "tiny-1.0.0.ortpackage"))
    served = []
    while True:
        store = Store(folder / f"store-{len(served)}")
        shutil.copytree(before.folder, store.folder)
        child = os.fork()
        if child == 0:
            update(Store(store.folder, DyingDisk(len(served))), folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        served.append(str(serves(store)))
        if not os.WIFSIGNALED(status):
            break
        update(store, folder)
        if serves(store) != "1.1.0":
            raise AssertionError(f"it did not complete after operation {len(served)}")
    print(json.dumps(served))
    sys.exit(os.waitstatus_to_exitcode(status))


def update(store: Store, folder: Path) -> None:
    switch(store, add(store, folder / "tiny-1.1.0.ortpackage"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
