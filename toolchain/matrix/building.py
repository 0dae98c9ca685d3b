"""The process in which a worker builds one package: `python -m toolchain.matrix.building FD`.

It is a process of its own so that the worker answers while it builds, has its memory back afterwards, and can stop it.
FD is a socket to the worker: an Order comes in, and Doing, Note, and Made or Failed go out. When the worker is gone,
this ends, with all that it has started: it leads a process group.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from runtime.errors import EdgeQwenError, OutOfMemory
from runtime.package import File, file_digest

from ..progress import Reporter, Stage
from .work import Doing, Failed, Made, Note, Order

_UPDATE_EVERY_S = 0.5


class _Sender(Reporter):
    """Reports to the worker."""

    def __init__(self, worker: Connection) -> None:
        super().__init__()
        self._worker = worker

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        self._worker.send(Doing(name))
        yield _SentStage(self._worker, name)

    def note(self, text: str) -> None:
        self._worker.send(Note(text))


class _SentStage(Stage):
    def __init__(self, worker: Connection, name: str) -> None:
        self._worker, self._name = worker, name
        self._last_s = 0.0

    def update(self, done: int, total: int, detail: str = "") -> None:
        now_s = time.monotonic()
        if now_s - self._last_s >= _UPDATE_EVERY_S:
            self._last_s = now_s
            self._worker.send(Doing(self._name, detail, done, total))


def main() -> None:
    """Builds what it is told, and says how that went."""
    worker = Connection(int(sys.argv[1]))
    os.set_inheritable(worker.fileno(), False)
    order: Order = worker.recv()
    threading.Thread(target=_end_with, args=(worker,), daemon=True).start()
    if order.cores:
        os.sched_setaffinity(0, order.cores)
    try:
        worker.send(_build(order, _Sender(worker)))
    except EdgeQwenError as error:
        worker.send(Failed(" ".join(str(error).splitlines()), passing=isinstance(error, OutOfMemory)))


def _end_with(worker: Connection) -> None:
    """Nothing more comes from the worker but the end of the connection."""
    try:
        worker.recv()
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _build(order: Order, report: Reporter) -> Made:
    from .. import build as builder
    from ..exhaustion import said
    from .inputs import inputs_key
    from .versions import tool_versions

    job = order.job
    options = builder.Options(
        source=job.source,
        profiles=job.profiles,
        out=order.out,
        cache=order.cache,
        version=job.version,
        revision=job.revision,
        precision=job.precision,
        calibration=job.calibration,
        presets=job.presets,
        merge_adapter=job.merge_adapter,
        adapters=job.adapters,
        adapter_targets=job.adapter_targets,
        exporter=job.exporter,
        allow_low_fidelity=job.allow_low_fidelity,
    )
    with said([order.cache, order.out]):
        found = builder.find(options, report)
        inputs = inputs_key(job, found, tool_versions())
        if inputs == order.known:
            return Made(inputs)
        package, builds = builder.make(options, found, report)
        return Made(inputs, package.name, files_of(package), tuple(builder.summary(builds)))


def files_of(package: Path) -> dict[str, File]:
    """All of a package's, by path in it."""
    paths = sorted(path for path in package.rglob("*") if path.is_file())
    return {
        path.relative_to(package).as_posix(): File(sha256=file_digest(path), size_bytes=path.stat().st_size)
        for path in paths
    }


if __name__ == "__main__":
    main()
