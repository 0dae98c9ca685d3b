"""A task on a real worker, whose builds are real processes: how they end, whatever happens to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from distributed import Client, Future
from processes import descendants
from tiny import change_config, make_tiny
from unit.toolchain.matrix.scripted_cluster import job

from toolchain.matrix.plan import Job
from toolchain.matrix.versions import all_versions
from toolchain.matrix.work import BuildDied, Failed
from toolchain.matrix.worker import Outcome, Task, build_package

ENDS_S = 60  # for a process that was ended; nothing waits so long


def task(job: Job, folder: Path) -> Task:
    return Task(job, "topic", folder / "out", "no-mark", folder / "cache", None, all_versions())


def submit(client: Client, task: Task) -> Future[Outcome]:
    return client.submit(build_package, task, pure=False)


@contextmanager
def building() -> Iterator[Callable[[], psutil.Process]]:
    """What waits for the process that builds; it is gone at the end of the block."""
    found: list[psutil.Process] = []

    def process() -> psutil.Process:
        while not found:
            found.extend(descendants(psutil.Process(), "toolchain.matrix.building"))
        return found[0]

    yield process
    assert not psutil.wait_procs(found, timeout=ENDS_S)[1]


def test_what_cannot_be_built_says_why(client: Client, tmp_path: Path) -> None:
    """In the words of a build, and nothing is left."""
    broken = change_config_of(make_tiny(tmp_path / "broken", "qwen2"))
    outcome = submit(client, task(replace(job("broken"), source=str(broken)), tmp_path)).result()
    assert isinstance(outcome.ended, Failed)
    assert outcome.ended.reason.startswith("broken is of architecture GPT2LMHeadModel; edgeqwen compiles ")
    assert not outcome.shared
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache").glob("results/*"))


def change_config_of(folder: Path) -> Path:
    change_config(folder, architectures=["GPT2LMHeadModel"])
    return folder


def test_a_fault_of_ours_is_said_and_its_log_kept(client: Client, tmp_path: Path) -> None:
    """Another try would end as it did."""
    no_profiles = replace(job("tiny"), profiles=("none",))  # type: ignore[arg-type]
    ended = submit(client, task(no_profiles, tmp_path)).result().ended
    log = tmp_path / "cache" / "logs" / "matrix-tiny.log"
    assert ended == Failed(f"AttributeError: 'str' object has no attribute 'execution'; all that it said is in {log}")
    assert log.read_text().startswith("Traceback")


def test_a_build_that_is_killed_can_be_tried_again(client: Client, tmp_path: Path) -> None:
    """As the kernel does it where memory is short."""
    tiny = make_tiny(tmp_path / "tiny", "qwen2")
    with building() as process:
        future = submit(client, task(replace(job("tiny"), source=str(tiny)), tmp_path))
        process().kill()
        with pytest.raises(BuildDied, match="the process that built it was killed by SIGKILL"):
            future.result()


def test_a_build_that_nobody_waits_for_ends(client: Client, tmp_path: Path) -> None:
    """The worker goes on to the next."""
    tiny = make_tiny(tmp_path / "tiny", "qwen2")
    with building() as process:
        future = submit(client, task(replace(job("tiny"), source=str(tiny)), tmp_path))
        process()
        future.cancel()
    broken = change_config_of(make_tiny(tmp_path / "broken", "qwen2"))
    outcome = submit(client, task(replace(job("broken"), source=str(broken)), tmp_path)).result()
    assert isinstance(outcome.ended, Failed)


def test_a_worker_with_other_tools_builds_nothing(client: Client, tmp_path: Path) -> None:
    """One that came to the cluster later, too."""
    other = replace(task(job("tiny"), tmp_path), versions=all_versions() | {"torch": "1.0"})
    outcome = submit(client, other).result()
    assert isinstance(outcome.ended, Failed)
    assert f"is not as this machine is: torch is {all_versions()['torch']} (here 1.0)" in outcome.ended.reason
