"""`edgeqwen watch` and the clients' `watch`: live, as lines, as JSON, and across restarts."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager
from itertools import islice

import grpc
import pytest
from click.testing import CliRunner, Result
from fakes import ScriptedSession
from rich.console import Console
from serving import serving

from edgeqwen.cli import main
from edgeqwen.client import AsyncClient, Client, InvalidRequest
from edgeqwen.history import LENGTH, History
from edgeqwen.v1 import telemetry_pb2 as pb
from edgeqwen.v1 import telemetry_pb2_grpc
from edgeqwen.watch import snapshots
from edgeqwen.watch_view import WatchView, duration, line_of, size, spark

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving(ScriptedSession(context_tokens=4096)) as target:
        yield target


def run(target: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--target", target, *arguments])


def loaded(name: str, tokens: int = 0) -> pb.LoadedModel:
    engine = pb.EngineInfo(
        slots=4,
        running=3,
        queue_depth=2,
        queue_limit=64,
        kv_budget_tokens=1000,
        kv_used_tokens=400,
        kv_warm_tokens=100,
        kv_bytes_per_token=12_288,
        completion_tokens_total=tokens,
        time_to_first_token_p50_ms=210,
        time_to_first_token_p95_ms=340,
        last_step_age_ms=12_000,
        draining=True,
        throttle=pb.Throttle(level=1, reason="86 C", rows=2, threads=2, share=0.5),
    )
    return pb.LoadedModel(
        model=pb.ModelInfo(name=name, precision="int4", provider="CPUExecutionProvider"), engine=engine
    )


def full(pid: int = 1, uptime_s: float = 60.0, tokens: int = 0) -> pb.Snapshot:
    """A snapshot of a board that has everything."""
    return pb.Snapshot(
        time_unix_ms=1_764_201_600_000,
        warnings=["anybody may call"],
        call_errors=[
            pb.CallErrors(method=method, code=code, total=total)
            for method, code, total in (("/a", "NOT_FOUND", 2), ("/a", "UNKNOWN", 3), ("/b", "NOT_FOUND", 2))
        ],
        uptime_s=uptime_s,
        models=[loaded("[red]qwen", tokens)],
        process=pb.ProcessInfo(pid=pid, rss_bytes=512_000_000, cpu_cores=1.5),
        machine=pb.MachineInfo(
            cores=2,
            cpu_busy=0.5,
            load_1m=1.25,
            memory_total_bytes=8_000_000_000,
            memory_available_bytes=6_000_000_000,
            cpu_cores=[pb.CpuCore(number=0, busy=0.95, frequency_hz=1_500_000_000), pb.CpuCore(number=1)],
            memory_pressure=pb.Pressure(some_avg10=3),
            temperatures=[pb.Temperature(sensor="a", celsius=40), pb.Temperature(sensor="cpu-thermal", celsius=85.5)],
            throttling=pb.Throttling(reasons=["throttled", "under-voltage"]),
            gpus=[pb.Gpu(name="gpu", busy=0.4, memory_used_bytes=1_000_000, celsius=50, watts=7)],
            rails=[pb.Rail(name="VDD_IN", watts=6.5)],
            disks=[pb.Disk(folder="/", total_bytes=10**10, free_bytes=10**9, read_bytes_per_second=5e6)],
            network=[pb.NetworkInterface(name="eth0", received_bytes=1, received_bytes_per_second=9)],
        ),
        energy=pb.Energy(watts=6.5, covers=["VDD_IN"], joules=100, counted_s=20, joules_per_token=0.4, window_s=20),
    )


def drawn(history: History, width: int, lost: str = "") -> list[str]:
    console = Console(width=width, force_terminal=True, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(WatchView(history, 1000, lost))
    return capture.get().splitlines()


def test_a_client_watches(target: str) -> None:
    """A snapshot at once, and more; leaving ends the call."""
    with Client(target) as client, closing(client.watch(interval_ms=100)) as watched:
        first, second = islice(watched, 2)
        assert second.uptime_s > first.uptime_s
        assert first.models[0].engine.slots == second.models[0].engine.slots > 0


async def test_a_client_of_asyncio_watches(target: str) -> None:
    """The same."""
    async with AsyncClient(target) as client, aclosing(client.watch(interval_ms=100)) as watched:
        first, second = await anext(watched), await anext(watched)
        assert second.uptime_s > first.uptime_s
    async with AsyncClient(target) as client:
        with pytest.raises(InvalidRequest):
            await anext(client.watch(interval_ms=5))


def test_an_interval_that_is_refused(target: str) -> None:
    """By the daemon with the field, by the command before it asks."""
    with Client(target) as client, pytest.raises(InvalidRequest) as error:
        next(client.watch(interval_ms=1))
    assert error.value.violations[0][0] == "interval_ms"
    assert run(target, "watch", "--interval", "0.01").exit_code == 2


def test_a_line_a_snapshot_where_there_is_no_terminal(target: str) -> None:
    """One of them with --once."""
    done = run(target, "watch", "--once")
    assert done.exit_code == 0
    assert re.fullmatch(r"\d\d:\d\d:\d\d \| 0/\d run, 0 wait \| .*free.*\n", done.stdout)


def test_json_is_an_object_a_line(target: str) -> None:
    """With the names of the proto; what is unset is left out."""
    snapshot = json.loads(run(target, "watch", "--once", "--json").stdout)
    assert {"time_unix_ms", "models", "process", "machine", "rates_s"} <= snapshot.keys()
    assert "time_to_first_token_p50_ms" not in snapshot["models"][0]["engine"]


def test_without_a_daemon_there_is_nothing_to_watch() -> None:
    """The exit status says so, as for every command."""
    done = run("unix:/tmp/nobody-listens.sock", "watch", "--interval", "0.1")
    assert done.exit_code == 69
    assert "is edgeqwend running?" in done.stderr


class _Restarting(telemetry_pb2_grpc.TelemetryServicer):
    """Every call meets a new daemon, which leaves after a snapshot."""

    def __init__(self) -> None:
        self._pid = 0

    def Watch(  # noqa: N802 - the name is the contract's
        self, request: pb.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.Snapshot]:
        self._pid += 1
        yield full(self._pid, uptime_s=1.0)
        context.abort(grpc.StatusCode.UNAVAILABLE, "the daemon is shutting down")


@contextmanager
def restarting() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder, ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        telemetry_pb2_grpc.add_TelemetryServicer_to_server(_Restarting(), server)
        server.add_insecure_port(f"unix:{folder}/s.sock")
        server.start()
        try:
            yield f"unix:{folder}/s.sock"
        finally:
            server.stop(0).wait()


def test_a_daemon_that_restarts_is_waited_for() -> None:
    """It is said why nothing comes, once for each time; then snapshots go on, and the view counts the restarts."""
    waits: list[float] = []
    history = History()
    with restarting() as target, Client(target) as client:
        seen = list(islice(snapshots(client, 100, waits.append), 5))
    assert [isinstance(each, str) for each in seen] == [False, True, False, True, False]
    assert seen[1] == f"{target}: the daemon is shutting down"
    assert len(waits) == 2
    for each in seen:
        if isinstance(each, pb.Snapshot):
            history.add(each)
    assert history.restarts == 2
    assert "restarted 2 x" in drawn(history, 120)[0]


def test_speeds_are_between_snapshots_of_one_daemon() -> None:
    """The first has none, and neither has that of another daemon."""
    history = History()
    for snapshot in (
        full(tokens=10, uptime_s=60),
        full(tokens=30, uptime_s=64),
        full(pid=2, tokens=0, uptime_s=1),
        full(pid=2, tokens=6, uptime_s=4),
        full(pid=2, tokens=1, uptime_s=5),  # the model was loaded again
    ):
        history.add(snapshot)
    assert history.of_model("[red]qwen", "tokens_per_second") == [None, 5.0, None, 2.0, None]
    assert history.of_model("another", "waiting") == [None] * 5
    for _ in range(2 * LENGTH):
        history.add(full(pid=2))
    assert len(history.of("watts")) == LENGTH


def test_the_view_shows_what_matters() -> None:
    """Names as they are, and what holds the board back."""
    history = History()
    for tokens in range(0, 400, 40):
        history.add(full(tokens=tokens, uptime_s=60 + tokens / 40))
    text = "\n".join(drawn(history, 140))
    for part in (
        "[red]qwen",
        "40.0",
        "210 ms, 340 at 95 %",
        "3 of 4",
        "2 of 64",
        "85.5 C cpu-thermal",
        "0.40 J a token",
    ):
        assert part in text
    for part in (
        "anybody may call",
        "callers got 4 NOT_FOUND, 3 UNKNOWN",
        "throttled, under-voltage",
        "1.50 GHz",
        "6.0 GB free of 8.0 GB",
        "6.5 W",
        "draining",
        "12 s ago",
        "86 C: 2 rows, 2 threads, 50% of the time",
    ):
        assert part in text


@pytest.mark.parametrize("width", [20, 34, 55, 56, 80, 115, 116, 140, 250])
@pytest.mark.parametrize("snapshot", [full(), pb.Snapshot()], ids=["full", "empty"])
def test_the_view_fits_any_terminal(width: int, snapshot: pb.Snapshot) -> None:
    """No line is wider, and a board that tells nothing is drawn too."""
    history = History()
    history.add(snapshot)
    history.add(snapshot)
    lines = drawn(history, width, lost="unix:/run/edgeqwen/edgeqwend.sock: the daemon is shutting down; trying again")
    assert len(lines) > 5
    assert max(map(len, lines)) <= width


def test_a_terminal_without_unicode_gets_ascii() -> None:
    """Bars and curves too."""
    history = History()
    history.add(full())
    with tempfile.TemporaryFile("w+", encoding="ascii") as file:
        console = Console(file=file, width=140, force_terminal=True, color_system=None)
        console.print(WatchView(history, 1000))
        file.seek(0)
        assert "###" in file.read()


def test_many_cores_take_one_line() -> None:
    """A column each."""
    snapshot = full()
    del snapshot.machine.cpu_cores[:]
    snapshot.machine.cpu_cores.extend(pb.CpuCore(number=at, busy=at / 64) for at in range(64))
    history = History()
    history.add(snapshot)
    assert any("64 cores" in line for line in drawn(history, 200))


def test_a_line_says_what_is_wrong() -> None:
    """Heat, power, throttling and what callers got beside load."""
    point = History().add(full())
    line = line_of(full(), point)
    lowered = "lowered: 86 C: 2 rows, 2 threads, 50% of the time"
    assert f"3/4 run, 2 wait, first token 210 ms, {lowered}, draining | cores 50%" in line
    assert line.endswith("85.5 C | 6.5 W | throttled: throttled, under-voltage | errors: 4 NOT_FOUND, 3 UNKNOWN")


def test_every_model_has_a_panel_and_a_part_of_the_line() -> None:
    """By its name; without one the machine is all there is."""
    snapshot = full()
    snapshot.models.append(loaded("second"))
    history = History()
    point = history.add(snapshot)
    text = "\n".join(drawn(history, 120))
    assert "2 models" in text
    assert "─ second ─" in text
    assert " | second: 3/4 run" in line_of(snapshot, point)
    del snapshot.models[:]
    history.add(snapshot)
    assert "no models" in "\n".join(drawn(history, 120))


def test_figures_are_readable() -> None:
    """Sizes, durations, curves."""
    assert [size(count) for count in (999, 1000, 2_500_000, 3.2e9)] == ["999 B", "1 kB", "2 MB", "3.2 GB"]
    assert [duration(s) for s in (0.4, 61, 3600, 90_000)] == ["0 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]
    assert spark([None, 0, 1, 2, 4]) == " ▁▃▅█"
    assert spark([0.5, 2.0], most=1.0) == "▅█"
    assert spark([]) == ""


def test_on_a_terminal_it_is_live_until_ctrl_c(target: str) -> None:
    """It takes the whole screen, gives it back, and leaves quietly."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "edgeqwen.cli", "--target", target, "watch", "--interval", "0.1"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=subprocess.PIPE, env=environment) as process:
        os.close(follower)
        shown = _until(leader, b"hottest", b"memory", b"Ctrl-C")
        process.send_signal(signal.SIGINT)
        rest = _until(leader)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    os.close(leader)
    assert process.returncode == 0
    assert b"\x1b[?1049h" in shown
    assert b"\x1b[?1049l" in rest


def _until(leader: int, *wanted: bytes) -> bytes:
    """What the terminal shows until one of the last two words is on it, or to the end."""
    seen = b""
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s and not (wanted and all(word in seen for word in wanted[1:])):
        if not select.select([leader], [], [], 1)[0]:
            continue
        try:
            part = os.read(leader, 65536)
        except OSError:  # how Linux says that nobody has the terminal open any more
            break
        if not part:
            break
        seen += part
    return seen


def test_lost_is_said_once_in_lines_and_json() -> None:
    """On stderr, with what comes after it as before."""
    with restarting() as target:
        command = [sys.executable, "-m", "edgeqwen.cli", "--target", target, "watch", "--json", "--interval", "0.1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            pids = [json.loads(process.stdout.readline())["process"]["pid"] for _ in range(2)]
            process.send_signal(signal.SIGINT)
            errors = process.stderr.read()
    assert pids == [1, 2]
    assert errors.count("the daemon is shutting down; trying again") in (1, 2)
    assert process.returncode == 0
