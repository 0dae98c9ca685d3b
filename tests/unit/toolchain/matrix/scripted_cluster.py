"""A cluster whose workers do what a test says: the interface of Dask's client as far as a matrix uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distributed import KilledWorker
from distributed.client import FutureCancelledError

from runtime.profile import find_profile
from toolchain.matrix.building import files_of
from toolchain.matrix.plan import Job
from toolchain.matrix.record import RECORDS
from toolchain.matrix.work import BuildDied, Failed, Made
from toolchain.matrix.worker import Outcome, Task

Ending = Literal[
    "built", "failed", "passing", "process dies", "worker dies", "dies unbegun", "crashes", "scheduler dies"
]
"""What becomes of a job that a worker was given. `passing` is a failure that need not come again."""

INPUTS = "all that it is made of"
ADDRESS = "tcp://127.0.0.1:1"


def job(name: str) -> Job:
    return Job(name, f"/models/{name}", "int4", (find_profile("generic-x86_64"),), "1.0.0", {})


@dataclass
class ScriptedFuture:
    outcome: Outcome | Exception

    def result(self) -> Outcome:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def add_done_callback(self, callback: Callable[[ScriptedFuture], None]) -> None:
        callback(self)


@dataclass
class ScriptedClient:
    """Takes the next ending of a job's script each time that it is given; at its end, the job is built.

    Args:
        elsewhere: where packages are made that the output folder does not see; None: there.
    """

    scripts: dict[str, list[Ending]]
    elsewhere: Path | None = None
    given: list[str] = field(default_factory=list)
    cancelled: list[object] = field(default_factory=list)
    said: Callable[[tuple[float, dict[str, object]]], None] = lambda event: None

    def subscribe_topic(self, topic: str, handler: Callable[[tuple[float, dict[str, object]]], None]) -> None:
        self.said = handler

    def unsubscribe_topic(self, topic: str) -> None:
        del self.said

    def cancel(self, futures: Iterable[object], force: bool) -> None:
        self.cancelled += futures

    def scheduler_info(self, n_workers: int) -> dict[str, dict[str, object]]:
        return {"workers": {ADDRESS: {}}}

    def run(self, function: Callable[..., object], *arguments: object, workers: list[str]) -> dict[str, object]:
        return {workers[0]: function(*arguments)}

    def submit(self, function: Callable[[Task], Outcome], task: Task, *, key: str, pure: bool) -> ScriptedFuture:
        name = task.job.name
        self.given.append(name)
        script = self.scripts.get(name, [])
        ending: Ending = script.pop(0) if script else "built"
        if ending != "dies unbegun":
            self.said((0.0, {"job": name, "began": "w1"}))
            self.said((0.0, {"job": name, "doing": ["Olive", "layers", 1, 2]}))
        return ScriptedFuture(self._ended(ending, task, key))

    def _ended(self, ending: Ending, task: Task, key: str) -> Outcome | Exception:
        if ending in ("worker dies", "dies unbegun"):
            return KilledWorker(key, None, 0)
        if ending == "process dies":
            return BuildDied("the process that built it was killed by SIGKILL")
        if ending == "scheduler dies":
            return FutureCancelledError(key, "scheduler-connection-lost")
        if ending == "crashes":
            return ZeroDivisionError("of ours")
        out = self.elsewhere or task.out
        if ending in ("failed", "passing"):
            return self._outcome(Failed("not so", passing=ending == "passing"), out)
        assert (task.out / RECORDS / task.mark).is_dir()
        if task.known == INPUTS:
            return self._outcome(Made(INPUTS), out)
        package = (
            out / task.job.name / f"{task.job.name}.ortpackage"
            if self.elsewhere
            else out / f"{task.job.name}.ortpackage"
        )
        for file in ("manifest.json", "models/decoder/board/model.onnx"):
            (package / file).parent.mkdir(parents=True, exist_ok=True)
            (package / file).write_text(f"{file} of {task.job.name}")
        rows = ({"variant": "board", "mean_kld": 0.01},)
        return self._outcome(Made(INPUTS, package.name, files_of(package), rows), package)

    def _outcome(self, ended: Made | Failed, root: Path) -> Outcome:
        return Outcome(ended, "w1", ADDRESS, 1.5, root, shared=self.elsewhere is None)
