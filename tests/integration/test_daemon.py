"""How the daemon starts, fails to start, and leaves."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from integration.daemons import start

from edgeqwen.client import Client, ClientError, Delta, Options, Started

pytestmark = pytest.mark.slow

LONG = Options(max_tokens=400, ignore_eos=True, temperature=0.0)


def run_daemon(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.daemon", *flags], capture_output=True, text=True, timeout=60, check=False
    )


def ask_until_refused(client: Client) -> None:
    """Returns when the daemon has heard the signal; fails if it never does."""
    for _ in range(1000):
        try:
            client.complete("x", options=Options(max_tokens=1))
        except ClientError:
            return
    raise AssertionError("the daemon goes on as if nothing had been said")


def test_the_first_sigterm_lets_running_requests_end(int4_package: Path) -> None:
    """The stream that runs goes on to its end, new requests are refused, and the daemon leaves with 0."""
    with start(int4_package, "--no-verify") as daemon, Client(daemon.target) as client:
        events = client.generate(prompt="One, two, three,", options=LONG)
        assert isinstance(next(events), Started)
        assert isinstance(next(events), Delta)
        daemon.process.send_signal(signal.SIGTERM)
        with Client(daemon.target) as other:
            ask_until_refused(other)
        *_, last = events
        assert getattr(last, "completion_tokens", None) == 400
        assert daemon.process.wait(timeout=20) == 0


def test_the_second_sigterm_leaves_at_once(int4_package: Path) -> None:
    """A request that runs then gets an error instead of silence."""
    with start(int4_package, "--no-verify") as daemon, Client(daemon.target) as client:
        events = client.generate(prompt="One, two, three,", options=Options(max_tokens=3000, ignore_eos=True))
        next(events)
        daemon.process.send_signal(signal.SIGTERM)
        with Client(daemon.target) as other:
            ask_until_refused(other)
        daemon.process.send_signal(signal.SIGTERM)
        with pytest.raises(ClientError):
            list(events)
        assert daemon.process.wait(timeout=20) == 0


def test_a_socket_in_use_is_refused_and_a_dead_one_is_taken_over(int4_package: Path, tmp_path: Path) -> None:
    """A second daemon exits with 6 and one line; a socket file that nobody listens at is no obstacle."""
    with start(int4_package, "--no-verify") as daemon:
        second = run_daemon("--package", str(int4_package), "--listen", daemon.target)
        assert second.returncode == 6
        assert second.stderr.count("\n") == 1
        assert "another process listens" in second.stderr
        stale = Path(daemon.target.removeprefix("unix:")).with_name("stale.sock")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(stale))
        third = subprocess.Popen(
            [sys.executable, "-m", "runtime.daemon", "--package", str(int4_package), "--listen", f"unix:{stale}"],
            stderr=subprocess.DEVNULL,
        )
        with Client(f"unix:{stale}") as client:
            client.wait_until_serving(timeout_s=60)
        assert stale.stat().st_mode & 0o777 == 0o660
        third.terminate()
        assert third.wait(timeout=20) == 0
        assert not stale.exists()


def test_a_corrupt_weights_file_is_named(int4_package: Path, tmp_path: Path) -> None:
    """One flipped bit: exit status 4, and one line that names the file."""
    broken = tmp_path / "broken.ortpackage"
    shutil.copytree(int4_package, broken)
    weights = next(broken.rglob("model.onnx.data"))
    with weights.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    done = run_daemon("--package", str(broken), "--listen", f"unix:{tmp_path}/d.sock")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "model.onnx.data is corrupt" in done.stderr


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--package", "/nowhere"], 4, "there is no package at /nowhere"),
        ([], 3, "package: is required"),
        (["--package", "x", "--listen", "0.0.0.0:50051"], 3, "must be a unix socket or a loopback address"),
        (["--package", "x", "--queue-limit", "0"], 3, "queue_limit (from flag): must be >= 1 (got 0)"),
        (["--package", "x", "--config", "/nowhere.yaml"], 3, "/nowhere.yaml: cannot be read"),
    ],
)
def test_a_start_that_cannot_work_says_why_in_one_line(
    tmp_path: Path, flags: list[str], status: int, words: str
) -> None:
    """The exit status is the documented one."""
    listen = [] if "--listen" in flags else ["--listen", f"unix:{tmp_path}/d.sock"]
    done = run_daemon(*flags, *listen)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert words in done.stderr


def test_the_log_is_json_and_holds_no_text_of_requests(int4_package: Path) -> None:
    """Every line parses; the prompt and the answer are nowhere in it."""
    with start(int4_package, "--no-verify") as daemon:
        with Client(daemon.target) as client:
            answer = client.chat([("user", "Say xylophone.")], options=Options(max_tokens=16, temperature=0.0))
        lines = daemon.said('"event": "finished"').splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert [event for event in events if event != "socket left to own group"][:3] == ["ready", "started", "finished"]
    assert not any("xylophone" in line or answer.text in line for line in lines)
