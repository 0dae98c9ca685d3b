"""Runs the jobs of a matrix on workers: tries again where one dies, and brings the packages to the output folder.

What workers say of their builds and how these end comes into one queue, which one thread reads.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from distributed import Future, KilledWorker
from distributed.client import FutureCancelledError

from runtime.errors import BuildError

from ..package import scratch_folder
from ..progress import Jobs
from .cluster import Workers
from .plan import Job
from .record import RECORDS, Record, read_record, write_record
from .transfer import fetch
from .versions import all_versions
from .work import BuildDied, Made
from .worker import Outcome, Task, build_package

_Future = Future[Outcome]
Status = Literal["built", "unchanged", "failed", "stopped"]

_UNBEGUN = 20
"""How often a job may be given to workers that die before it begins."""


@dataclass(frozen=True)
class Result:
    """What became of a job: `built`, `unchanged` (it was there already), `failed`, or `stopped` as another failed.

    Args:
        package: where it is.
        size_bytes: of all its files.
        variants: a row for each, for people and scripts.
        seconds: of the try that ended it.
        tries: how often it was begun.
    """

    job: Job
    status: Status
    package: Path | None = None
    size_bytes: int | None = None
    variants: Sequence[dict[str, object]] = ()
    seconds: float | None = None
    worker: str | None = None
    tries: int = 0
    reason: str | None = None

    def as_row(self) -> dict[str, object]:
        """For scripts."""
        return {
            "name": self.job.name,
            "model": self.job.source,
            "precision": self.job.precision,
            "profiles": [profile.name for profile in self.job.profiles],
            "version": self.job.version,
            "status": self.status,
            "package": self.package and str(self.package),
            "size_bytes": self.size_bytes,
            "variants": list(self.variants),
            "seconds": self.seconds and round(self.seconds, 1),
            "worker": self.worker,
            "tries": self.tries,
            "reason": self.reason,
        }


@dataclass
class _Pending:
    """A job that has no result yet."""

    job: Job
    known: Record | None
    future: _Future | None = None
    submitted: int = 0
    began: int = 0
    worker: str | None = None


class MatrixRun:
    """The jobs of a matrix on `workers`."""

    def __init__(
        self,
        workers: Workers,
        progress: Jobs,
        *,
        out: Path,
        cache: Path | None,
        retries: int,
        fail_fast: bool,
    ) -> None:
        """
        Args:
            out: the folder for packages, which workers may see or not.
            cache: for builds; None for each worker's own.
            retries: how often a job is begun again whose worker, or whose process there, has died.
            fail_fast: whether the first job that fails stops the others.
        """
        self._workers = workers
        self._progress = progress
        self._out = out
        self._cache = cache
        self._retries = retries
        self._fail_fast = fail_fast
        self._topic = f"matrix-{uuid.uuid4().hex}"
        self._mark = Path()
        self._versions = all_versions()
        self._inbox: SimpleQueue[_Future | dict[str, Any]] = SimpleQueue()
        self._pending: dict[str, _Pending] = {}
        self._results: dict[str, Result] = {}

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        """Builds them all, and returns a result for each. When this ends, by an error too, no build goes on.

        Raises BuildError if the scheduler is gone.
        """
        client, records = self._workers.client, self._out / RECORDS
        records.mkdir(parents=True, exist_ok=True)
        with scratch_folder(records, ".run-") as mark:
            self._mark = mark
            client.subscribe_topic(self._topic, lambda event: self._inbox.put(event[1]))
            try:
                self._pending = {job.name: _Pending(job, read_record(self._out, job.name)) for job in jobs}
                for each in self._pending.values():
                    self._submit(each)
                while self._pending:
                    self._take(self._inbox.get())
            finally:
                self._stop()
        return [self._results[job.name] for job in jobs]

    def _submit(self, each: _Pending) -> None:
        each.submitted += 1
        task = Task(
            job=each.job,
            topic=self._topic,
            out=self._out,
            mark=self._mark.name,
            cache=self._cache,
            known=each.known.inputs if each.known else None,
            versions=self._versions,
            cores=self._workers.cores,
        )
        key = f"{self._topic}-{each.job.name}-{each.submitted}"
        each.future = self._workers.client.submit(build_package, task, key=key, pure=False)
        each.future.add_done_callback(self._inbox.put)

    def _stop(self) -> None:
        """Nobody waits for what is still pending."""
        self._workers.client.cancel([each.future for each in self._pending.values()], force=True)

    def _take(self, came: _Future | dict[str, Any]) -> None:
        if isinstance(came, dict):
            if each := self._pending.get(came["job"]):
                self._hear(each, came)
        elif each := next((each for each in self._pending.values() if each.future is came), None):
            self._ended(each, came)

    def _hear(self, each: _Pending, said: dict[str, Any]) -> None:
        if worker := said.get("began"):
            each.began += 1
            each.worker = worker
            again = f", try {each.began}" if each.began > 1 else ""
            self._progress.note(f"{each.job.name}: on worker {worker}{again}")
        elif note := said.get("note"):
            self._progress.note(f"{each.job.name}: {note}")
        else:
            self._progress.doing(each.job.name, *said["doing"])

    def _ended(self, each: _Pending, future: _Future) -> None:
        try:
            outcome = future.result()
        except KilledWorker:
            self._again(each, "its worker died")
        except BuildDied as error:
            self._again(each, str(error))
        except FutureCancelledError as error:
            raise BuildError("the scheduler is gone, and what it had under way with it: run this again") from error
        except Exception as error:  # of ours, or of the worker's machine; it would come again
            self._fail(each, f"{type(error).__name__}: {error}")
        else:
            ended = outcome.ended
            if isinstance(ended, Made):
                self._accept(each, outcome, ended)
            elif ended.passing:
                self._again(each, ended.reason)
            else:
                self._fail(each, ended.reason, outcome)

    def _accept(self, each: _Pending, outcome: Outcome, made: Made) -> None:
        """Keeps what was made. Where that is nothing, what is there already must still be as it was."""
        if made.package is not None:
            self._built(each, outcome, made, made.package)
        elif each.known and each.known.is_true(self._out):
            self._finish(each, self._good("unchanged", each, outcome, each.known), "unchanged")
        else:
            each.known = None
            self._submit(each)

    def _built(self, each: _Pending, outcome: Outcome, made: Made, package: str) -> None:
        if not outcome.shared:
            try:
                fetch(self._workers.client, outcome.address, outcome.root, made.files, self._out)
            except BuildDied as error:
                self._again(each, str(error))
                return
        record = Record(inputs=made.inputs, package=package, files=dict(made.files), variants=list(made.variants))
        write_record(self._out, each.job.name, record, self._mark)
        self._finish(each, self._good("built", each, outcome, record), f"built in {outcome.seconds:.1f} s")

    def _good(self, status: Status, each: _Pending, outcome: Outcome, record: Record) -> Result:
        return Result(
            each.job,
            status,
            package=self._out / record.package,
            size_bytes=record.size_bytes,
            variants=record.variants,
            seconds=outcome.seconds,
            worker=outcome.worker,
            tries=each.began,
        )

    def _again(self, each: _Pending, reason: str) -> None:
        if each.began > self._retries or each.submitted > self._retries + _UNBEGUN:
            self._fail(each, f"{reason}, the last of {each.began} tries")
        else:
            self._progress.note(f"{each.job.name}: {reason}; trying again")
            self._submit(each)

    def _fail(self, each: _Pending, reason: str, outcome: Outcome | None = None) -> None:
        result = Result(
            each.job,
            "failed",
            seconds=outcome.seconds if outcome else None,
            worker=outcome.worker if outcome else each.worker,
            tries=each.began,
            reason=reason,
        )
        self._finish(each, result, f"failed: {reason}")
        if self._fail_fast:
            self._stop()
            for other in list(self._pending.values()):
                self._finish(other, Result(other.job, "stopped", tries=other.began), "stopped")

    def _finish(self, each: _Pending, result: Result, said: str) -> None:
        del self._pending[each.job.name]
        self._results[each.job.name] = result
        self._progress.ended(each.job.name, said, worked=result.status == "built")
