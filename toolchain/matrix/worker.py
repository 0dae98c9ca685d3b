"""What a Dask worker does: one package after the other, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path

from distributed import Status, Worker, get_worker

from ..cache import default_cache
from .plan import Job
from .record import RECORDS
from .versions import all_versions, differences
from .work import BuildDied, Doing, Failed, Made, Note, Order, Stopped

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Task:
    """A job as it is sent to a worker.

    Args:
        topic: under which events are logged for who waits, `{"job": ..., "doing": ...}` and such.
        mark: a folder in `out`; a worker that sees it shares that with who waits.
        cache: None for the worker's own.
        cores: which each worker may use, by its name; all, where its name is not there.
    """

    job: Job
    topic: str
    out: Path
    mark: str
    cache: Path | None
    known: str | None
    versions: Mapping[str, str]
    cores: Mapping[object, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a task ended: `root` is where the package is, in the shared output folder or only on the worker."""

    ended: Made | Failed
    worker: str
    address: str
    seconds: float
    root: Path
    shared: bool


def build_package(task: Task) -> Outcome:
    """Builds the package of `task` on this worker.

    Raises BuildDied if the process that builds is killed, Stopped once nobody waits for the task any longer.
    """
    worker, began_s = get_worker(), time.monotonic()
    worker.log_event(task.topic, {"job": task.job.name, "began": str(worker.name)})
    cache = task.cache or default_cache()
    shared = (task.out / RECORDS / task.mark).is_dir()
    out = task.out if shared else cache / "results" / f"{task.topic}-{task.job.name}"
    if different := differences(task.versions, all_versions()):
        ended: Made | Failed = Failed(f"{worker.address} is not as this machine is: {different}")
    else:
        order = Order(task.job, out, cache, task.known, task.cores.get(worker.name, ()))
        ended = _in_process(order, _Link(worker, str(worker.get_current_task()), task))
    root = out / ended.package if isinstance(ended, Made) and ended.package else out
    return Outcome(ended, str(worker.name), worker.address, time.monotonic() - began_s, root, shared)


class _Link:
    """From the thread of a task to its worker and who waits for it."""

    def __init__(self, worker: Worker, key: str, task: Task) -> None:
        self._worker, self._key, self._task = worker, key, task

    @property
    def is_wanted(self) -> bool:
        """Whether the scheduler still waits for the task, and the worker does not end."""
        state = self._worker.state.tasks.get(self._key)
        return state is not None and state.state != "cancelled" and self._worker.status is not Status.closing

    def tell(self, said: Doing | Note) -> None:
        text: dict[str, object]
        if isinstance(said, Note):
            text = {"note": said.text}
        else:
            text = {"doing": [said.stage, said.part, said.done, said.total]}
        self._worker.log_event(self._task.topic, {"job": self._task.job.name, **text})


def _in_process(order: Order, link: _Link) -> Made | Failed:
    log = order.cache / "logs" / f"matrix-{order.job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = Pipe()
    command = [sys.executable, "-m", f"{__package__}.building", str(theirs.fileno())]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    theirs.close()
    try:
        with ours, suppress(EOFError, BrokenPipeError, ConnectionResetError):
            ours.send(order)
            while link.is_wanted:
                if not ours.poll(_LOOK_EVERY_S):
                    continue
                said = ours.recv()
                if isinstance(said, Made | Failed):
                    return said
                link.tell(said)
            raise Stopped
        return _without_a_word(process, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _without_a_word(process: subprocess.Popen[bytes], log: Path) -> Failed:
    """Why a process ended that did not say so. Raises BuildDied if it was killed."""
    if (status := process.wait()) < 0:
        raise BuildDied(f"the process that built it was killed by {signal.Signals(-status).name}")
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return Failed(f"{lines[-1] if lines else f'its process ended with status {status}'}; all that it said is in {log}")


def describe_worker(dask_worker: Worker) -> dict[str, object]:
    """What a cluster's worker is, for who wants to give it jobs."""
    return {"threads": dask_worker.state.nthreads, "versions": all_versions()}


def read_part(root: Path, name: str, offset: int, size: int) -> bytes:
    """`size` bytes of a file of the package at `root`, or what is left of it."""
    with (root / name).open("rb") as file:
        file.seek(offset)
        return file.read(size)


def discard(root: Path) -> None:
    """Removes a package that nobody needs here any longer."""
    shutil.rmtree(root.parent, ignore_errors=True)
