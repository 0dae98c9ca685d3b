"""Bytes that come, with the time left: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_LINE_EVERY_S = 10.0


@contextmanager
def showing_bytes(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what is to be told how many bytes of how many are done. All of it goes to stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what).show
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Lines:
    def __init__(self, what: str) -> None:
        self._what, self._first = what, -1
        self._started_s = self._last_s = time.monotonic()

    def show(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if self._first < 0:
            self._first = done
        if now_s - self._last_s < _LINE_EVERY_S or done <= self._first:
            return
        self._last_s = now_s
        left_s = (now_s - self._started_s) / (done - self._first) * (total - done)
        text = f"{self._what}: {done / 1e6:.1f}/{total / 1e6:.1f} MB, about {left_s:.0f} s left"
        print(text, file=sys.stderr, flush=True)
