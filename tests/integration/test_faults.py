"""What goes wrong around a real daemon: clients that are too many, too slow or gone, and a system that takes things
away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from integration.daemons import Daemon, at_rest, start

from edgeqwen.client import AsyncClient, Client, ClientError, Delta, Finished, Options, ServerUnavailable, Started

pytestmark = pytest.mark.slow

ROWS = 8
FLAGS = ("--no-verify", "--slots", str(ROWS), "--context-tokens", "2048")
LONG = Options(temperature=0.0, max_tokens=1500, ignore_eos=True)
SHORT = Options(temperature=0.0, max_tokens=24, ignore_eos=True)
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.fixture(scope="module")
def daemon(small_package: Path) -> Iterator[Daemon]:
    with start(small_package, *FLAGS) as daemon:
        yield daemon


def prompt(number: int) -> str:
    return f"{number} pumps and {number * number} valves, " * (1 + number % 5)


def drawn(seed: int) -> Options:
    """What random weights find likeliest is always the same token; drawn, each answer is another."""
    return Options(temperature=2.0, seed=seed, max_tokens=24, ignore_eos=True, deterministic=True)


def works(daemon: Daemon) -> str:
    """What it says to the first prompt, with nothing left of before."""
    with Client(daemon.target, scope=b"") as client:
        text = client.complete(prompt(0), options=SHORT).text
        at_rest(client)
    return text


# Clients


def test_64_clients_over_8_rows_get_their_own_answers(daemon: Daemon) -> None:
    """Each over a connection of its own, all at once; every answer is that of a daemon that nobody else asks."""

    async def ask(number: int) -> tuple[int, ...]:
        async with AsyncClient(daemon.target) as client:
            return (await client.complete(prompt(number), options=drawn(number))).token_ids

    async def all_at_once() -> list[tuple[int, ...]]:
        return await asyncio.gather(*map(ask, range(64)))

    with Client(daemon.target, scope=b"") as client:
        alone = [client.complete(prompt(number), options=drawn(number)).token_ids for number in range(64)]
        assert len(set(alone)) > 32, "answers that are all alike would prove nothing"
        assert asyncio.run(all_at_once()) == alone
        at_rest(client)


def test_readers_that_stop_hold_up_nobody_and_cost_little(daemon: Daemon) -> None:
    """What they do not take is merged and bounded; when they go on reading, nothing is missing."""
    slow = ROWS - 1
    options = Options(temperature=0.0, max_tokens=600, ignore_eos=True, top_logprobs=20)

    async def scene() -> list[int]:
        async with AsyncClient(daemon.target, scope=b"") as client, AsyncClient(daemon.target, scope=b"") as other:
            streams = [client.generate(prompt=prompt(number), options=options) for number in range(slow)]
            for stream in streams:
                assert isinstance(await anext(stream), Started)
            for _ in range(5):
                assert (await other.complete(prompt(0), options=SHORT)).finished.completion_tokens == 24
            while (snapshot := await other.snapshot()).models[0].engine.running:
                pass
            assert snapshot.process.rss_bytes - before < 96 << 20
            return [sum([len(event.token_ids) async for event in s if isinstance(event, Delta)]) for s in streams]

    works(daemon)
    before = psutil.Process(daemon.process.pid).memory_info().rss
    assert asyncio.run(scene()) == [600] * slow
    works(daemon)


CLIENT = """
import sys
from edgeqwen.client import Client, Delta, Options
with Client(sys.argv[1], scope=b"") as client:
    options = Options(temperature=0.0, max_tokens=600, ignore_eos=True)
    for event in client.generate(prompt="a pump " * int(sys.argv[2]), options=options):
        print(type(event).__name__, flush=True)
"""


@contextlib.contextmanager
def client_process(target: str, words: int) -> Iterator[subprocess.Popen[str]]:
    """A client that says of each event what it is."""
    process = subprocess.Popen([sys.executable, "-c", CLIENT, target, str(words)], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def heard(process: subprocess.Popen[str], what: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == what:
            return
    raise AssertionError(f"never heard {what}")


@pytest.mark.parametrize("where", ["queue", "prefill", "decode"])
def test_a_client_that_is_killed_leaves_nothing(small_package: Path, where: str) -> None:
    """SIGKILL of its process: its slot and its KV are free, and its neighbour's answer is what it was."""
    words = 480 if where == "prefill" else 2
    rows = 1 if where == "queue" else 2
    with start(small_package, *FLAGS[:1], "--slots", str(rows), "--context-tokens", "4096") as daemon:
        alone = works(daemon)
        with Client(daemon.target, scope=b"") as neighbour:
            events = neighbour.generate(prompt=prompt(3), options=LONG)
            assert isinstance(next(events), Started)
            with client_process(daemon.target, words) as client:
                heard(client, "Delta" if where == "decode" else "Started")
                if where == "queue":
                    assert neighbour.snapshot().models[0].engine.queue_depth == 1
                if where == "prefill":
                    assert any(neighbour.snapshot().models[0].engine.running == 2 for _ in range(1000))
                client.kill()
                if where == "prefill":
                    assert client.communicate()[0] == "", "it was to be killed before its first token"
            *_, last = events
            assert isinstance(last, Finished)
            assert last.completion_tokens == LONG.max_tokens
            snapshot = at_rest(neighbour)
            assert snapshot.models[0].engine.requests_cancelled_total == 1
        assert works(daemon) == alone


class Proxy:
    """Passes bytes on between a client and the daemon's port, until it breaks both connections with RST."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._port))
        self._links = [near, far]
        for one, other in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def reset(self) -> None:
        for link in self._links:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.shutdown(socket.SHUT_RD)
            link.close()
        self._listener.close()


def test_a_connection_that_is_reset_frees_its_request(small_package: Path) -> None:
    """Over TCP, in decode; the client hears of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with start(small_package, *FLAGS, listen=f"127.0.0.1:{port}") as daemon:
        proxy = Proxy(port)
        with Client(proxy.target, scope=b"") as client, Client(daemon.target) as other:
            events = client.generate(prompt=prompt(1), options=LONG)
            assert isinstance(next(events), Started)
            assert isinstance(next(events), Delta)
            proxy.reset()
            with pytest.raises(ClientError):
                list(events)
            assert at_rest(other).models[0].engine.requests_cancelled_total == 1
        works(daemon)


# The daemon's own process


def test_a_daemon_that_is_killed_and_started_again_goes_on_at_its_socket(small_package: Path) -> None:
    """Its client hears UNAVAILABLE in mid-stream, and the same client's next request is answered by the next daemon."""
    with start(small_package, *FLAGS) as first, Client(first.target, scope=b"") as client:
        events = client.generate(prompt=prompt(1), options=LONG)
        assert isinstance(next(events), Started)
        assert isinstance(next(events), Delta)
        first.process.kill()
        with pytest.raises(ServerUnavailable):
            list(events)
        first.process.wait()
        assert Path(first.target.removeprefix("unix:")).is_socket()
        with start(small_package, *FLAGS, listen=first.target):
            client.wait_until_serving(timeout_s=30)
            assert client.complete(prompt(1), options=SHORT).finished.completion_tokens == 24


# What the system takes away


def test_a_full_disk_does_not_stop_it(small_package: Path, tmp_path: Path) -> None:
    """Its log and its state folder take no byte, and no file may grow."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with start(small_package, *FLAGS, "--state-dir", str(tmp_path / "none"), stderr=full) as daemon:
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, 0))
            for _ in range(20):
                works(daemon)
            daemon.process.terminate()
            assert daemon.process.wait(timeout=20) == 0
    finally:
        os.close(full)


def test_a_log_reader_that_stops_does_not_stop_it(small_package: Path) -> None:
    """Stderr is a pipe that is full. The daemon serves, leaves when it is told to, and has lost lines only."""
    reader, writer = os.pipe()
    try:
        with start(small_package, *FLAGS, stderr=writer) as daemon:
            os.set_blocking(reader, False)
            os.set_blocking(writer, False)
            with contextlib.suppress(BlockingIOError):
                while os.write(writer, b"." * 4096):
                    pass
            os.set_blocking(writer, True)
            for _ in range(20):
                works(daemon)
            daemon.process.terminate()
            assert daemon.process.wait(timeout=20) == 0
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
def test_it_starts_and_serves_without_standard_streams(small_package: Path, closed: str) -> None:
    """Nothing that is opened gets their numbers, and nothing is written where nobody expects it."""
    program = ("sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-m", "runtime.daemon")
    with start(small_package, *FLAGS, program=program) as daemon:
        works(daemon)
        for descriptor in range(3):
            target = Path(f"/proc/{daemon.process.pid}/fd/{descriptor}").readlink()
            assert str(target) == "/dev/null" or not closed.count(f"{descriptor}>&-") + closed.count(f"{descriptor}<&-")


@pytest.mark.skipif(not FAKETIME.is_file(), reason="needs Debian's libfaketime")
def test_the_clock_may_jump(small_package: Path, tmp_path: Path) -> None:
    """Ten years forward and twenty back in mid-stream: streams, deadlines and health go on as if nothing were."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = os.environ | {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with start(small_package, *FLAGS, environment=environment) as daemon, Client(daemon.target, scope=b"") as client:
        before = client.snapshot()
        options = Options(temperature=0.0, max_tokens=200, ignore_eos=True)
        alone = client.complete(prompt(1), options=options).token_ids
        for jump, years in (("+10y", 10), ("-10y", -10), ("+0", 0)):
            events = client.generate(prompt=prompt(1), options=options, timeout_s=60)
            assert isinstance(next(events), Started)
            clock.write_text(jump)
            tokens = [token for event in events if isinstance(event, Delta) for token in event.token_ids]
            assert tuple(tokens) == alone
            snapshot = client.snapshot()
            jumped_s = (snapshot.time_unix_ms - before.time_unix_ms) / 1e3
            assert jumped_s / (365 * 86400) == pytest.approx(years, abs=0.1), "else the clock did not jump"
            assert 0 < snapshot.uptime_s < 600
            assert client.complete(prompt(0), options=SHORT, timeout_s=60).finished.total_ms < 60_000
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(timeout=20) == 0
