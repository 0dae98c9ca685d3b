"""An engine in a process of its own (see worker.py): started, asked, and watched from here."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from traffic import Arrival, Served

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Of the process with the engine, and of the one that talks to us if that is another."""

    peak_bytes: int
    cpu_s: float


class PeerProcess:
    """A running worker."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        """Starts `command`, and returns when it is ready."""
        start = time.perf_counter()
        self._child = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ready = self._read()
        self.ready_s: float = ready["ready_s"] or time.perf_counter() - start
        self.versions: dict[str, str] = ready["versions"]
        self._engine_pid: int = ready["pid"]

    def serve(self, arrivals: Sequence[Arrival]) -> list[Served]:
        answer = self._ask({"do": "serve", "arrivals": [asdict(its) for its in arrivals]})
        return [Served(its["arrived_s"], tuple(its["token_s"])) for its in answer["served"]]

    def logits(self, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """`[len(tokens), vocab]`."""
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            self._ask({"do": "logits", "tokens": list(tokens), "start": start, "file": file.name})
            result: NDArray[np.float32] = np.load(file.name)
        return result

    def usage(self) -> Usage:
        """The most that was ever resident in the engine's process, and what processor time all of it took."""
        status = Path(f"/proc/{self._engine_pid}/status").read_text()
        peak_kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        return Usage(int(peak_kib) << 10, sum(map(_cpu_s, {self._engine_pid, self._child.pid})))

    def close(self) -> None:
        """Ends it, and waits until it has."""
        assert self._child.stdin
        self._child.stdin.close()
        self._child.wait(timeout=60)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin
        self._child.stdin.write(json.dumps(question) + "\n")
        self._child.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._child.args!r} ended with {self._child.wait()}; what it said is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
