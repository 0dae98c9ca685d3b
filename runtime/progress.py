"""How far a long command is, with the time left: a bar on a terminal, a line now and then elsewhere. All of it goes to
stderr, so that stdout stays for results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_LINE_EVERY_S = 10.0


@contextmanager
def showing_bytes(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what is to be told how many bytes of how many are done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = Lines(lambda line: click.echo(line, err=True))
        yield lambda done, total: lines.update(done, total, f"{what}: {done / 1e6:.1f}/{total / 1e6:.1f} MB")
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class Lines:
    """Says every ten seconds how far something is, and how long the rest takes at the speed since `begin`.

    Args:
        say: is told each line.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._started_s = self._last_s = clock()
        self._first: int | None = None

    def begin(self, done: int) -> None:
        """From here on the speed is another: `done` was done before."""
        self._started_s, self._first = self._clock(), done

    def update(self, done: int, total: int, text: str) -> None:
        """Says `text`, with the time left, if it is time for that. The first begins."""
        if self._first is None:
            self.begin(done)
        now_s, came = self._clock(), done - (self._first or 0)
        if now_s - self._last_s < _LINE_EVERY_S or came <= 0:
            return
        self._last_s = now_s
        self._say(f"{text}, about {(now_s - self._started_s) / came * (total - done):.0f} s left")
