"""Real daemons in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeqwen.client import Client

READY_TIMEOUT_S = 60


@dataclass(frozen=True)
class Daemon:
    """A running `edgeqwend`."""

    target: str
    process: subprocess.Popen[str]
    log: Path


@contextmanager
def start(package: Path, *flags: str, wait: bool = True) -> Iterator[Daemon]:
    """Runs the daemon on a socket of its own; ends it, with its second SIGTERM if it still drains."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:  # a socket's path must be short
        target, log = f"unix:{folder}/d.sock", Path(folder) / "log"
        command = [sys.executable, "-m", "runtime.daemon", "--package", str(package), "--listen", target, *flags]
        with log.open("w") as stderr:
            process = subprocess.Popen(command, stderr=stderr, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            if wait:
                with Client(target) as client:
                    client.wait_until_serving(timeout_s=READY_TIMEOUT_S)
            yield Daemon(target, process, log)
        finally:
            process.stdout.close()
            for _ in range(2):
                if process.poll() is None:
                    process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
