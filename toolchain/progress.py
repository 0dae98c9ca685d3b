"""Progress with time left: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from runtime.progress import Lines

_LINE_EVERY_S = 10.0


class Stage:
    """One step of a build, of which `done` of `total` is done."""

    def update(self, done: int, total: int, detail: str = "") -> None:
        """Says how far it is; `detail` names the part it is in."""


class Jobs:
    """Several jobs, some of which go on beside each other."""

    def doing(self, name: str, stage: str, part: str, done: int, total: int) -> None:
        """The job `name` is at `done` of `total` of a stage, in its part `part`; 0 of 0 where nobody counts."""

    def note(self, text: str) -> None:
        """A line of its own."""

    def ended(self, name: str, said: str, *, worked: bool) -> None:
        """How the job ended. `worked`: whether its time says something about that of others."""


class Reporter:
    """Reports stages on stderr, so that stdout stays for results."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream or sys.stderr, clock
        self._console = Console(file=self._stream)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """A step called `name`, from here to the end of the block."""
        started_s = self._clock()
        if self._console.is_terminal:
            with _bars(self._console) as progress:
                yield _Bar(progress, name)
        else:
            self.note(f"{name} ...")
            yield _StageLines(Lines(self.note, self._clock), name)
        self.note(f"{name}: {self._clock() - started_s:.1f} s")

    def note(self, text: str) -> None:
        """A line of its own."""
        print(text, file=self._stream, flush=True)

    @contextmanager
    def jobs(self, total: int) -> Iterator[Jobs]:
        """So many of them, from here to the end of the block."""
        if self._console.is_terminal:
            with _bars(self._console) as progress:
                yield _JobBars(progress, total)
        else:
            yield _JobLines(self._stream, total)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
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


class _StageLines(Stage):
    def __init__(self, lines: Lines, name: str) -> None:
        self._lines, self._name, self._detail = lines, name, ""
        lines.begin(0)

    def update(self, done: int, total: int, detail: str = "") -> None:
        if detail != self._detail:
            self._detail = detail
            self._lines.begin(done)
        part = f" {detail}" if detail else ""
        self._lines.update(done, total, f"{self._name}:{part} {done}/{total}")


class _JobBars(Jobs):
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._all = progress.add_task("packages", total=total)
        self._tasks: dict[str, TaskID] = {}

    def doing(self, name: str, stage: str, part: str, done: int, total: int) -> None:
        description = f"{name}: {part or stage}"
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(description, total=None)
        task = self._tasks[name]
        if self._progress.tasks[self._progress.task_ids.index(task)].description != description:
            self._progress.reset(task, description=description, total=None)
        self._progress.update(task, completed=done, total=total or None)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def ended(self, name: str, said: str, *, worked: bool) -> None:
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))
        self._progress.advance(self._all)
        self.note(f"{name}: {said}")


class _JobLines(Jobs):
    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream, self._total = stream, total
        self._started_s = time.monotonic()
        self._ended = self._worked = 0
        self._stages: dict[str, tuple[str, float]] = {}

    def doing(self, name: str, stage: str, part: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        before, last_s = self._stages.get(name, ("", 0.0))
        if stage != before:
            self.note(f"{name}: {stage} ...")
        elif now_s - last_s < _LINE_EVERY_S or not total:
            return
        else:
            self.note(f"{name}: {stage}:{f' {part}' if part else ''} {done}/{total}")
        self._stages[name] = (stage, now_s)

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def ended(self, name: str, said: str, *, worked: bool) -> None:
        self._ended += 1
        self._worked += worked
        left, counted = self._total - self._ended, f"{self._ended} of {self._total}"
        if self._worked and left:
            left_s = (time.monotonic() - self._started_s) / self._worked * left
            counted += f", about {left_s:.0f} s left"
        self.note(f"{name}: {said} ({counted})")
