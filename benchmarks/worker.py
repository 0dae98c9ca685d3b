"""The other end of `peer_process.py`: an engine in a process of its own, told what to do over stdin and stdout.

A line is a JSON object. First the worker says that it is ready, then it answers line by line until stdin ends. While
it waits for a line it must not take processor time from whoever is measured.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Protocol

from traffic import Arrival, Served


class Engine(Protocol):
    """What a worker has loaded."""

    def serve(self, arrivals: Sequence[Arrival]) -> list[Served]: ...


class Scoring(Protocol):
    """An engine whose fidelity can be measured."""

    def logits(self, tokens: Sequence[int], start: int, file: str) -> None:
        """Saves float32 logits `[len(tokens), vocab]` of tokens from position `start` on; 0 begins another text."""
        ...


def own_stdout() -> IO[str]:
    """The pipe to who started us; what libraries print goes to stderr from now on."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return pipe


def work(
    engine: Engine,
    pipe: IO[str],
    *,
    versions: dict[str, str],
    pid: int | None = None,
    ready_s: float | None = None,
) -> None:
    """Answers until stdin ends. Where the engine runs in another process: its id, and how long it took to be ready."""
    _say(pipe, {"versions": versions, "pid": pid or os.getpid(), "ready_s": ready_s})
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "serve":
            arrivals = [Arrival(**its) for its in asked["arrivals"]]
            _say(pipe, {"served": [asdict(its) for its in engine.serve(arrivals)]})
        else:
            engine.logits(asked["tokens"], asked["start"], asked["file"])  # type: ignore[attr-defined]
            _say(pipe, {})


def _say(pipe: IO[str], answer: dict[str, object]) -> None:
    pipe.write(json.dumps(answer) + "\n")
