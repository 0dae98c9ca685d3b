"""Progress with time left: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 10.0


class Stage:
    """One step of a build, of which `done` of `total` is done."""

    def update(self, done: int, total: int, detail: str = "") -> None:
        """Says how far it is; `detail` names the part it is in."""


class Reporter:
    """Reports stages on stderr, so that stdout stays for results."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._console = Console(file=self._stream)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """A step called `name`, from here to the end of the block."""
        started_s = time.monotonic()
        if self._console.is_terminal:
            with _bars(self._console) as progress:
                yield _Bar(progress, name)
        else:
            print(f"{name} ...", file=self._stream, flush=True)
            yield _Lines(self._stream, name)
        print(f"{name}: {time.monotonic() - started_s:.1f} s", file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """A line of its own."""
        print(text, file=self._stream, flush=True)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class _Bar(Stage):
    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name, self._detail = progress, name, ""
        self._task = progress.add_task(name, total=None)

    def update(self, done: int, total: int, detail: str = "") -> None:
        if detail != self._detail:  # another part: its speed is not that of the last
            self._detail = detail
            self._progress.reset(self._task, description=f"{self._name}: {detail}")
        self._progress.update(self._task, completed=done, total=total)


class _Lines(Stage):
    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._detail = stream, name, ""
        self._started_s = self._last_s = time.monotonic()
        self._first = 0

    def update(self, done: int, total: int, detail: str = "") -> None:
        now_s = time.monotonic()
        if detail != self._detail:
            self._detail, self._started_s, self._first = detail, now_s, done
        if now_s - self._last_s < _LINE_EVERY_S or done <= self._first:
            return
        self._last_s = now_s
        left_s = (now_s - self._started_s) / (done - self._first) * (total - done)
        part = f" {detail}" if detail else ""
        print(f"{self._name}:{part} {done}/{total}, about {left_s:.0f} s left", file=self._stream, flush=True)
