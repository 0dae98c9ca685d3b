"""Real daemons in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeqwen.client import Client, ServerUnavailable
from edgeqwen.v1 import telemetry_pb2

READY_TIMEOUT_S = 60
_THIS_PYTHON = (sys.executable, "-m", "runtime.daemon")


@dataclass(frozen=True)
class Daemon:
    """A running `edgeqwend`."""

    target: str
    process: subprocess.Popen[str]
    log: Path

    def said(self, *texts: str, timeout_s: float = 20) -> str:
        """What it has logged, once all of `texts` are in it: nobody waits for the log."""
        deadline_s = time.monotonic() + timeout_s
        while not all(text in (log := self.log.read_text(encoding="utf-8")) for text in texts):
            assert time.monotonic() < deadline_s, f"one of {texts} is not in:\n{log}"
            time.sleep(0.02)
        return log

    def ready(self) -> dict[str, Any]:
        """The line of the log that says so."""
        lines = map(json.loads, self.said('"event": "ready"').splitlines())
        [ready] = (line for line in lines if line["event"] == "ready")
        return ready


@contextmanager
def start(
    package: Path | None,
    *flags: str,
    wait: bool = True,
    listen: str | None = None,
    stderr: int | None = None,
    program: Sequence[str] = _THIS_PYTHON,
    environment: Mapping[str, str] | None = None,
    ready_timeout_s: float = READY_TIMEOUT_S,
) -> Iterator[Daemon]:
    """Runs the daemon with `package`, or with what the flags name, on a socket of its own or at `listen`.

    Ends it, with its second SIGTERM if it still drains.

    Without a package, `flags` say what it serves. What it says goes to a file, or to the descriptor `stderr`.
    """
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:  # a socket's path must be short
        target, log = listen or f"unix:{folder}/d.sock", Path(folder) / "log"
        served = [] if package is None else ["--package", str(package)]
        command = [*program, *served, "--listen", target, *flags]
        with log.open("w") as file:
            out = file if stderr is None else stderr
            process = subprocess.Popen(command, stderr=out, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        try:
            if wait:
                _wait(target, process, log, ready_timeout_s)
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


def at_rest(client: Client, timeout_s: float = 20) -> telemetry_pb2.Snapshot:
    """The first snapshot in which nothing runs."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        snapshot = client.snapshot()
        engine = snapshot.models[0].engine
        if engine.running == engine.queue_depth == engine.kv_reserved_tokens == 0:
            return snapshot
        assert time.monotonic() < deadline_s, f"never at rest: {engine}"


def _wait(target: str, process: subprocess.Popen[str], log: Path, timeout_s: float) -> None:
    """Until it serves; not longer than it lives."""
    deadline_s = time.monotonic() + timeout_s
    with Client(target) as client:
        while True:
            try:
                return client.wait_until_serving(timeout_s=2)
            except ServerUnavailable:
                assert process.poll() is None, f"the daemon left with {process.returncode}:\n{log.read_text()}"
                assert time.monotonic() < deadline_s, f"nothing serves after {timeout_s:g} s:\n{log.read_text()}"
