"""Processes that are killed before any operation on real files: the same again completes, and what serves is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from power import memory
from unit.runtime.store.stocked import built

DYING = Path(__file__).with_name("dying.py")
TESTS = Path(__file__).parents[3]


def test_whenever_an_installation_is_killed_something_whole_serves() -> None:
    """SIGKILL before each write, sync, rename and lock of an update: the kernel lets go of the locks, and what serves
    is 1.0.0 or 1.1.0."""
    with memory() as folder:
        for version in ("1.0.0", "1.1.0"):
            built(folder, version)
        done = subprocess.run(
            [sys.executable, str(DYING), str(folder)],
            env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}:{TESTS.parent / 'protos'}"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    served = json.loads(done.stdout)
    assert len(served) > 40
    assert served[0] == "1.0.0"
    assert served[-1] == "1.1.0"
    assert sorted(served) == served
