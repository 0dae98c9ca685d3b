"""A board is measured, and the daemon runs as was found; and when it has nothing to do, it does nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from integration.daemons import Daemon, start

from edgeqwen.client import Client, Options
from runtime.bench.autotune import Measured, local_settings
from runtime.board.cpu import read_cpu
from runtime.board.localsettings import LocalSettings, LocalSettingsFile, describe_packed
from runtime.board.tuning import Threads
from runtime.package import Package
from runtime.sessions.ort_session import pack

pytestmark = pytest.mark.slow


def bench(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeqwen.cli", "--target", "unix:/nowhere/s", "bench", str(package), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def model_of(daemon: Daemon) -> tuple[int, int, str, str, int]:
    with Client(daemon.target) as client:
        [loaded] = client.snapshot().models
    model, slots = loaded.model, loaded.engine.slots
    return model.prefill_threads, model.decode_threads, model.threads_from, model.slots_from, slots


def logged(daemon: Daemon) -> list[dict[str, Any]]:
    """Up to when it was ready, and maybe more."""
    return [json.loads(line) for line in daemon.said('"event": "ready"').splitlines()]


def file_of(package: Path, state: Path) -> LocalSettingsFile:
    file = LocalSettingsFile(state, Package.open(package, verify=False).build_digest, read_cpu())
    file.require_writable()
    return file


def test_figures_for_people_and_for_scripts(int4_package: Path, tmp_path: Path) -> None:
    """Every case has its speeds; a longer prompt takes longer to its first token."""
    arguments = [
        "--rounds",
        "1",
        "--streams",
        "1,2",
        "--prompt",
        "16,256",
        "--tokens",
        "8",
        "--state-dir",
        str(tmp_path),
    ]
    found = json.loads(bench(int4_package, *arguments, "--json").stdout)
    assert [(case["prompt"], case["streams"]) for case in found["cases"]] == [(16, 1), (256, 1), (16, 2)]
    assert all(case["decode_tokens_per_second"] > 0 for case in found["cases"])
    assert found["cases"][0]["first_token_ms"] < found["cases"][1]["first_token_ms"]
    assert found["weights_bytes"] < found["resident_loaded_bytes"]
    shown = bench(int4_package, *arguments, "--threads", "1").stdout
    assert "threads: 1, by the configuration" in shown
    assert shown.count("\n") == 7


def test_what_was_found_is_what_the_daemon_runs(int4_package: Path, tmp_path: Path) -> None:
    """Until the configuration says otherwise, and also in what a person sees."""
    state = ["--state-dir", str(tmp_path)]
    done = bench(int4_package, "--autotune", "--budget", "5", *state, "--json")
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout)["settings"]
    assert json.loads(Path(json.loads(done.stdout)["file"]).read_text()) == kept
    with start(int4_package, "--no-verify", *state) as daemon:
        threads, slots = kept["threads"], kept["slots"]
        assert kept["packed"] is not None or model_of(daemon) == (threads, threads, *["local settings"] * 2, slots)
        ready = daemon.ready()
        assert (ready["threads_from"], ready["slots"]) == ("local settings", slots)
        command = [sys.executable, "-m", "edgeqwen.cli", "--target", daemon.target, "status"]
        status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "by the local settings; slots by the local settings" in " ".join(status.split())
    with start(int4_package, "--no-verify", *state, "--threads", "1", "--slots", "3") as daemon:
        assert model_of(daemon) == (1, 1, "configuration", "configuration", 3)


def test_settings_that_cannot_be_read_are_no_reason_not_to_serve(int4_package: Path, tmp_path: Path) -> None:
    """They are ignored, which the log says once."""
    file_of(int4_package, tmp_path).path.write_text('{"format": 2}')
    with start(int4_package, "--no-verify", "--state-dir", str(tmp_path)) as daemon:
        assert model_of(daemon)[2:4] == ("profile", "profile")
        events = [line["event"] for line in logged(daemon)]
    assert events.index("local settings ignored") < events.index("ready")


def measured(threads: Threads) -> Measured:
    """As if a board had wanted these."""
    rounds = {1: [1.0]}
    return Measured(rounds, rounds, rounds, rounds, threads, Threads(1, 1), slots=2, token_cost=0.2, in_time=True)


def test_two_numbers_of_threads_share_the_weights(int4_package: Path, tmp_path: Path) -> None:
    """The graph is packed, the daemon maps it, answers as before, and starts without it if it was changed or cannot be
    loaded."""
    package, file = Package.open(int4_package), file_of(int4_package, tmp_path)
    kept = local_settings(measured(Threads(prefill=2, decode=1)), package, file, read_cpu())
    assert kept.packed is not None
    file.write(kept)
    question = ("One, two, three,", Options(max_tokens=16, temperature=0.0))
    with start(int4_package) as daemon, Client(daemon.target) as client:
        expected = client.complete(question[0], options=question[1]).text
    with start(int4_package, "--state-dir", str(tmp_path)) as daemon, Client(daemon.target) as client:
        assert model_of(daemon)[:3] == (2, 1, "local settings")
        assert client.complete(question[0], options=question[1]).text == expected
    file.packed_graph(kept.packed).write_bytes(b"no graph")
    with start(int4_package, "--state-dir", str(tmp_path)) as daemon:
        assert model_of(daemon)[2] == "profile"
    broken = describe_packed(file.packed_graph(kept.packed), Threads(2, 1))  # with the digest that it has
    file.write(LocalSettings.model_validate(kept.model_dump() | {"packed": broken}))
    with start(int4_package, "--state-dir", str(tmp_path)) as daemon:
        assert model_of(daemon)[2] == "profile"
        assert "local settings ignored" in [line["event"] for line in logged(daemon)]
    file.write(LocalSettings.model_validate(kept.model_dump() | {"packed": None}))
    assert [path.name for path in file.path.parent.iterdir()] == [file.path.name]


OWN_BYTES = """
import sys
from pathlib import Path
from runtime.sessions.ort_session import OrtSession

def own_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))

before = own_bytes()
session = OrtSession(Path(sys.argv[1]), slots=1, context_tokens=512, threads=1, prefill_threads=int(sys.argv[2]))
print(own_bytes() - before)
"""


def test_sessions_of_a_packed_graph_have_one_copy_of_its_weights(int4_package: Path, tmp_path: Path) -> None:
    """A second one of the package's own graph has another copy, in memory that no file stands behind."""
    package = Package.open(int4_package, verify=False)
    weights = package.build.memory.weights_bytes
    packed = pack(package.serving_graph, tmp_path)

    def own_bytes(graph: Path, prefill_threads: int) -> int:
        """What loading takes of such memory, in a process of its own."""
        command = [sys.executable, "-c", OWN_BYTES, str(graph), str(prefill_threads)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    one, two = own_bytes(package.serving_graph, 1), own_bytes(package.serving_graph, 2)
    assert two - one > 0.8 * weights
    assert own_bytes(packed, 2) < one - 0.5 * weights


def test_a_daemon_with_nothing_to_do_does_nothing(int4_daemon: Daemon) -> None:
    """From the end of an answer on it takes less than 2 % of one core: no thread of the model spins, nothing polls.

    What is measured is the daemon's processor time, so a busy machine changes nothing; and only waiting shows idleness.
    """
    tasks, waited_s, idle_s = Path(f"/proc/{int4_daemon.process.pid}/task"), 0.0, 0.0

    def processor_s() -> float:
        """Of all threads, to the nanosecond: Documentation/scheduler/sched-stats.rst."""
        return sum(int(path.read_text().split()[0]) for path in tasks.glob("*/schedstat")) / 1e9

    with Client(int4_daemon.target) as client:
        for _ in range(6):
            client.complete("One, two, three,", options=Options(max_tokens=16, ignore_eos=True))
            before_s = processor_s()
            time.sleep(0.5)
            waited_s += 0.5
            idle_s += processor_s() - before_s
    assert idle_s < 0.02 * waited_s
