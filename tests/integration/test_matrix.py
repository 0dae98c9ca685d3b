"""A matrix of tiny packages on real workers: killed ones, interrupted runs, and a cluster that shares no folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from certificates import Authority
from integration.compiler import compile
from processes import descendants
from tiny import change_config, make_tiny

pytestmark = pytest.mark.slow

PROFILE = "generic-arm64"
PRECISIONS = ("int8", "float32")
ENDS_S = 60  # for processes that are ended; nothing waits so long


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny`, and `broken`, which no build takes."""
    folder = tmp_path_factory.mktemp("models")
    make_tiny(folder / "tiny", "qwen2")
    change_config(make_tiny(folder / "broken", "qwen2"), architectures=["GPT2LMHeadModel"])
    return folder


@pytest.fixture(scope="module")
def plain(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All files of the packages of `tiny`, built one after the other without any worker."""
    folder = tmp_path_factory.mktemp("plain")
    for precision in PRECISIONS:
        places = ("--cache", folder / "cache", "-o", folder / "out")
        done = compile("build", models / "tiny", "--precision", precision, "--profile", PROFILE, *places)
        assert done.exit_code == 0, done.stderr
    return packages(folder / "out")


def packages(out: Path) -> dict[str, bytes]:
    """Every file of every package."""
    files = (path for package in out.glob("*.ortpackage") for path in package.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@dataclass
class Run:
    """A `build --matrix` under way in `folder`, in a process group of its own."""

    process: subprocess.Popen[str]
    folder: Path

    def until(self, words: str) -> str:
        """The first line of progress with these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return line
        raise AssertionError(f"it ended with {self.process.wait()}, and never said {words!r}")

    def ended(self) -> tuple[int, dict[str, dict[str, Any]], str]:
        """Exit status, rows by name, and what it still said."""
        stdout, stderr = self.process.communicate()
        rows = json.loads(stdout)["jobs"] if stdout else []
        return self.process.returncode, {row["name"]: row for row in rows}, stderr


def begin(
    folder: Path,
    models: Sequence[Path],
    *flags: str,
    precisions: Sequence[str] = PRECISIONS,
    env: Mapping[str, str] | None = None,
) -> Run:
    """Packages go to `folder/out`."""
    content = {"models": list(map(str, models)), "profiles": [PROFILE], "precisions": list(precisions), "output": "out"}
    folder.mkdir(exist_ok=True)
    (folder / "matrix.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "toolchain.cli", "build", "--matrix", "matrix.yaml", "--json", *flags]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return Run(process, folder)


def builders(root: psutil.Process) -> list[psutil.Process]:
    """The processes below `root` that build a package."""
    return descendants(root, "toolchain.matrix.building")


def kill_a_worker(root: psutil.Process) -> None:
    """One whose build has begun to load Olive; that ends with it, and all that it had started."""
    builder = next(each for each in builders(root) if each.children())
    orphans = [builder, *builder.children(recursive=True)]
    builder.parent().kill()
    assert not psutil.wait_procs(orphans, timeout=ENDS_S)[1], "a build outlived its worker"


def test_the_job_of_a_killed_worker_is_done_again(models: Path, plain: dict[str, bytes], tmp_path: Path) -> None:
    """By one that lives. The packages are what builds without workers make, to the last byte; run again, nothing is
    done; and a package that was changed since is built again, no other. Weights in the cache that were changed, too, do
    not come into it."""
    flags = ("--workers", "2", "--cache", "cache")
    run = begin(tmp_path, [models / "tiny"], *flags)
    run.until("Olive ...")
    kill_a_worker(psutil.Process(run.process.pid))
    status, rows, said = run.ended()
    assert status == 0, said
    assert sorted(row["tries"] for row in rows.values()) == [1, 2], said
    assert "its worker died; trying again" in said
    assert {row["status"] for row in rows.values()} == {"built"}
    assert packages(tmp_path / "out") == plain
    changed = tmp_path / "out" / "tiny-float32.ortpackage" / "configs" / "tokenizer.json"
    changed.write_bytes(changed.read_bytes() + b" ")
    for weights in (tmp_path / "cache" / "compiled").glob("*/model.onnx.data"):
        os.truncate(weights, 1000)
    status, rows, said = begin(tmp_path, [models / "tiny"], *flags).ended()
    assert status == 0, said
    assert {name: row["status"] for name, row in rows.items()} == {"tiny-int8": "unchanged", "tiny-float32": "built"}
    assert said.count("is not as it was made, and is made again") == 1
    assert packages(tmp_path / "out") == plain


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process(models: Path, tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C in a terminal goes to the whole group, and is answered in one line; a kill goes to one process."""
    run = begin(tmp_path, [models / "tiny"], "--workers", "2", "--cache", "cache")
    run.until("Olive ...")
    root = psutil.Process(run.process.pid)
    family = root.children(recursive=True)
    assert builders(root)
    if how is signal.SIGINT:
        os.killpg(run.process.pid, how)
    else:
        run.process.send_signal(how)
    status, _, said = run.ended()
    assert not psutil.wait_procs(family, timeout=ENDS_S)[1], "a process outlived the run"
    assert not packages(tmp_path / "out")
    if how is signal.SIGINT:
        last = "python -m toolchain.cli: interrupted; run the same command again to go on"
        assert (status, "Traceback" in said, said.splitlines()[-1]) == (130, False, last)


@dataclass(frozen=True)
class Cluster:
    """A scheduler and two workers, each a process as an operator starts it, who speak TLS.

    Args:
        certificates: Dask's configuration, as environment variables.
    """

    address: str
    workers: psutil.Process
    certificates: Mapping[str, str]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    certificates = dask_certificates(tmp_path)
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            (tmp_path / name).mkdir()
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{name}", *arguments],
                cwd=tmp_path / name,
                env=os.environ | certificates | {"EDGEQWEN_CACHE": str(tmp_path / "cache")},
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        file = tmp_path / "scheduler.json"
        listening = ("--protocol", "tls", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        scheduler = start("dask_scheduler", *listening, "--scheduler-file", str(file))
        nannies = ("--nworkers", "2", "--nthreads", "1", "--no-dashboard")
        workers = start("dask_worker", *nannies, "--scheduler-file", str(file))
        while not (file.exists() and file.read_text()):
            with suppress(subprocess.TimeoutExpired):
                scheduler.wait(timeout=0.1)
            assert scheduler.returncode is None
        address = json.loads(file.read_text())["address"]
        assert address.startswith("tls://")
        yield Cluster(address, psutil.Process(workers.pid), certificates)


def dask_certificates(folder: Path) -> dict[str, str]:
    """For scheduler, workers and who asks them."""
    authority = Authority(folder)
    pair = authority.issue("dask", hosts=("127.0.0.1",))
    files = {f"{role}__CERT": str(pair.certificate) for role in ("SCHEDULER", "WORKER", "CLIENT")}
    files |= {f"{role}__KEY": str(pair.key) for role in ("SCHEDULER", "WORKER", "CLIENT")}
    return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": value for name, value in files.items()} | {
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(authority.file),
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
    }


NOT_THEIRS = "/proc/self/cwd/out"
"""For each process a folder of its own: workers do not see what the run calls so."""


def test_a_cluster_builds_and_gives_its_packages_away(
    cluster: Cluster, models: Path, plain: dict[str, bytes], tmp_path: Path
) -> None:
    """Workers that share no folder, one of them killed in its job: packages are the same to the last byte, nothing
    stays on the workers, and a model that cannot be built fails alone, without another try."""
    flags = ("--cluster", cluster.address, "-o", NOT_THEIRS)
    run = begin(tmp_path / "client", [models / "broken", models / "tiny"], *flags, env=cluster.certificates)
    run.until("Olive ...")
    kill_a_worker(cluster.workers)
    status, rows, said = run.ended()
    assert status == 8, said
    assert said.splitlines()[-1].endswith("2 of 4 packages could not be built: broken-int8, broken-float32")
    for precision in PRECISIONS:
        broken, tiny = rows[f"broken-{precision}"], rows[f"tiny-{precision}"]
        assert (broken["status"], broken["tries"]) == ("failed", 1)
        assert broken["reason"].startswith("broken is of architecture GPT2LMHeadModel; ")
        assert tiny["status"] == "built", said
    assert sum(rows[f"tiny-{precision}"]["tries"] for precision in PRECISIONS) == 3, said
    assert packages(tmp_path / "client" / "out") == plain
    assert not list((tmp_path / "cache" / "results").iterdir())
    status, rows, said = begin(tmp_path / "client", [models / "tiny"], *flags, env=cluster.certificates).ended()
    assert (status, {row["status"] for row in rows.values()}) == (0, {"unchanged"}), said


def test_the_first_failure_stops_what_a_cluster_has_under_way(cluster: Cluster, models: Path, tmp_path: Path) -> None:
    """The workers go on living, and no build does."""
    flags = ("--cluster", cluster.address, "--fail-fast")
    both = [models / "broken", models / "tiny"]
    run = begin(tmp_path / "client", both, *flags, precisions=["int8"], env=cluster.certificates)
    status, rows, said = run.ended()
    assert status == 8, said
    assert {name: row["status"] for name, row in rows.items()} == {"broken-int8": "failed", "tiny-int8": "stopped"}
    assert not psutil.wait_procs(builders(cluster.workers), timeout=ENDS_S)[1]
    assert cluster.workers.is_running()
    assert not packages(tmp_path / "client" / "out")
