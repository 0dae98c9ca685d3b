"""The daemon's command line, its address, and how it leaves. tests/integration has it with real models."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
import structlog
from click.testing import CliRunner
from fakes import ScriptedSession
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving import make_entrance
from unit.runtime.fake_engine import TIMEOUT_S, byte_tokenizer, only_model

from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import generation_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc
from runtime.access.address import Address
from runtime.configuration.config import Config
from runtime.daemon import main
from runtime.engine.engine import Engine
from runtime.errors import AddressInUse, ConfigError
from runtime.lifecycle.assembly import Daemon
from runtime.lifecycle.observability import Observability
from runtime.lifecycle.reload import Reloader
from runtime.lifecycle.running import run
from runtime.lifecycle.services import make_services

BAD_FLAGS = {
    "http_listen": "nowhere",
    "listen": "nowhere",
    "connections": "0",
    "connections_per_user": "0",
    "metrics_listen": "nowhere",
    "queue_limit": "0",
    "drain_timeout_s": "-1",
    "stall_timeout_s": "0",
    "threads": "0",
    "slots": "0",
    "context_tokens": "0",
    "max_message_bytes": "0",
    "device": "AUTO",
    "share_prefix": "everybody",
    "low_power_battery_percent": "100",
    "log_format": "xml",
    "log_level": "loud",
}
UNBOUNDED = {"package", "variant", "store", "more_packages", "packages_dir", "adapters_dir", "state_dir"} | {
    *("verify", "speculate", "shrink_kv", "simulate", "deterministic", "socket_group", "insecure")
}
MAPPINGS = {"clients", "limits", "otel", "tls", "tokens"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """In /tmp: the path of a unix socket has room for about 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as name:
        yield Path(name)


# The command line


def test_every_setting_has_a_flag() -> None:
    """What a file and the environment can set, a flag can, but for what is a mapping."""
    flags = {parameter.name for parameter in main.params} - {"config_file", "check_only", "as_json", "version"}
    assert flags | MAPPINGS == set(Config.model_fields) == set(BAD_FLAGS) | UNBOUNDED | MAPPINGS
    assert not flags & MAPPINGS


def test_flags_go_to_their_settings() -> None:
    """Each bad value is reported under its own name, all at once, with exit status 3."""
    flags = [part for name, value in BAD_FLAGS.items() for part in (f"--{name.replace('_', '-')}", value)]
    done = CliRunner().invoke(main, ["--package", "x", *flags], env={})
    assert done.exit_code == 3
    for name in BAD_FLAGS:
        assert f"{'listen[0]' if name == 'listen' else name} (from flag): " in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    """A flag stands above the environment, that above the file, and a fault says which it came from."""
    file = tmp_path / "edgeqwend.yaml"
    file.write_text("package: x\nqueue_limit: -1\nslots: -2\nthreads: -3\n")
    environment = {"EDGEQWEN_CONFIG": str(file), "EDGEQWEN_SLOTS": "-4", "EDGEQWEN_THREADS": "-5"}
    done = CliRunner().invoke(main, ["--threads", "-6"], env=environment)
    assert done.exit_code == 3
    assert f"queue_limit (from {file}): must be >= 1 (got -1)" in done.stderr
    assert "slots (from environment): must be >= 1 (got -4)" in done.stderr
    assert "threads (from flag): must be >= 1 (got -6)" in done.stderr


def test_help_costs_little() -> None:
    """It shows examples, and loads nothing that only serving needs."""
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert "edgeqwend --package" in done.stdout
    code = "import sys, runtime.daemon; print(*sorted({'grpc', 'numpy', 'onnxruntime', 'rich'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "\n"


# The address


class Listeners:
    """Stands for gRPC, which removes a socket file before it binds, whoever listens there."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def add_port(self, target: str) -> int:
        path = target.removeprefix("unix:")
        Path(path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self.sockets.append(listener)
        return 1

    def close(self) -> None:
        for listener in self.sockets:
            listener.close()


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    listeners = Listeners()
    yield listeners
    listeners.close()


def test_a_socket_is_for_its_owner_and_group_and_goes_with_the_daemon(folder: Path, listeners: Listeners) -> None:
    address = Address(f"unix:{folder}/s")
    mask_before = os.umask(0o022)
    os.umask(mask_before)
    assert address.bind(listeners.add_port) == f"unix:{folder}/s"
    assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o660
    mask_after = os.umask(mask_before)
    assert mask_after == mask_before
    address.release()
    assert list(folder.iterdir()) == []


def test_a_live_socket_is_left_alone(folder: Path, listeners: Listeners) -> None:
    """Who comes second is told so before and instead of binding, and removes nothing when it leaves."""
    first, second = Address(f"unix:{folder}/s"), Address(f"unix:{folder}/s")
    first.bind(listeners.add_port)
    with pytest.raises(AddressInUse, match=f"another process listens at unix:{folder}/s: stop it"):
        second.require_free()
    with pytest.raises(AddressInUse):
        second.bind(listeners.add_port)
    second.release()
    assert (folder / "s").is_socket()


def test_a_daemon_too_busy_to_answer_is_alive(folder: Path) -> None:
    """A full backlog refuses connections for now; that is no reason to take its socket."""
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(folder / "s"))
        busy.listen(0)
        callers = []
        try:
            for _ in range(4):
                callers.append(caller := socket.socket(socket.AF_UNIX))
                caller.setblocking(False)
                caller.connect_ex(str(folder / "s"))
            with pytest.raises(AddressInUse):
                Address(f"unix:{folder}/s").require_free()
        finally:
            for caller in callers:
                caller.close()


def test_a_socket_that_a_dead_daemon_left_is_taken_over(folder: Path, listeners: Listeners) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "s"))
    address = Address(f"unix:{folder}/s")
    address.require_free()
    address.bind(listeners.add_port)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "s"))


def test_of_daemons_that_start_together_one_gets_the_socket(folder: Path, listeners: Listeners) -> None:
    """All have seen it free; the others are refused when they bind, and the first goes on listening."""
    addresses = [Address(f"unix:{folder}/s") for _ in range(8)]
    for address in addresses:
        address.require_free()
    start, refused = threading.Barrier(len(addresses)), []

    def bind(address: Address) -> None:
        start.wait(TIMEOUT_S)
        try:
            address.bind(listeners.add_port)
        except AddressInUse as error:
            refused.append(error)

    threads = [threading.Thread(target=bind, args=(address,)) for address in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert (len(listeners.sockets), len(refused)) == (1, 7)
    for address in addresses[::-1]:
        address.release()
    assert not (folder / "s").exists()


def test_another_daemons_socket_outlives_this_one(folder: Path, listeners: Listeners) -> None:
    """Its file was removed by hand and another daemon made its own: that one stays."""
    first, second = Address(f"unix:{folder}/s"), Address(f"unix:{folder}/s")
    first.bind(listeners.add_port)
    (folder / "s").unlink()
    second.bind(listeners.add_port)
    first.release()
    assert (folder / "s").is_socket()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: f"unix:{folder}/none/s", "none does not exist: create it"),
        (lambda folder: f"unix:{folder}/{'x' * 100}", "longer than the 101 bytes"),
        (lambda folder: "0.0.0.0:50051", "must be a unix socket or a loopback address"),
        (lambda folder: "example.com:50051", "must be a unix socket or a loopback address"),
        (lambda folder: "[::]:50051", "must be a unix socket or a loopback address"),
        (lambda folder: "127.0.0.1:65536", "no port above 65535"),
    ],
)
def test_an_address_that_cannot_be_is_refused(folder: Path, make: Callable[[Path], str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Address(make(folder))


def test_a_file_in_the_way_is_not_removed(folder: Path, listeners: Listeners) -> None:
    """Nor what a link points to."""
    (folder / "file").write_text("precious")
    (folder / "link").symlink_to("file")
    for name in ("file", "link"):
        with pytest.raises(ConfigError, match="is not a socket: remove it"):
            Address(f"unix:{folder}/{name}").bind(listeners.add_port)
    assert (folder / "link").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_refused(folder: Path) -> None:
    folder.chmod(0o500)
    with pytest.raises(ConfigError, match="may not write to the folder"):
        Address(f"unix:{folder}/s")


async def test_a_port_of_0_is_one_that_is_free() -> None:
    """The address that comes back has the port that was chosen; it is then in use for others."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    bound = Address("127.0.0.1:0").bind(server.add_insecure_port)
    assert not bound.endswith(":0")
    with pytest.raises(AddressInUse, match=f"another process listens at {bound}"):
        Address(bound).require_free()
    await server.stop(None)


# How it leaves


@dataclass
class Running:
    """A daemon on a scripted session. `gate` lets one token through for each release."""

    task: asyncio.Task[None]
    channel: grpc.aio.Channel
    gate: threading.Semaphore
    manager: socket.socket
    lines: list[structlog.typing.EventDict]

    async def told(self) -> str:
        """The next message to the service manager."""
        message = await asyncio.get_running_loop().sock_recv(self.manager, 4096)
        return message.decode()

    def generate(self, max_tokens: int) -> grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]:
        stub = generation_pb2_grpc.GenerationStub(self.channel)
        call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse] = stub.Generate(
            pb.GenerateRequest(prompt="abc", max_tokens=max_tokens, ignore_eos=True)
        )
        return call


@asynccontextmanager
async def running(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: float) -> AsyncIterator[Running]:
    gate = threading.Semaphore(0)

    def gated(history: tuple[int, ...]) -> int:
        if len(history) > 3:  # the first token needs no permission
            assert gate.acquire(timeout=TIMEOUT_S)
        return len(history)

    limits = {"queue_limit": 4, "prefill_chunk_tokens": 8, "kv_budget_tokens": 1000}
    engine = Engine(ScriptedSession(gated), byte_tokenizer(), eos_token_ids=frozenset(), **limits)
    models = only_model(engine)
    monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
    target = f"unix:{folder}/s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, structlog.testing.capture_logs() as lines:
        manager.bind(f"{folder}/notify")
        manager.setblocking(False)
        entrance = make_entrance()
        daemon = Daemon(models, entrance, make_services(models, 1 << 20, entrance), Observability())
        async with asyncio.timeout(TIMEOUT_S), grpc.aio.insecure_channel(target) as channel:
            config = Config(package=Path("p"), **{"drain_timeout_s": TIMEOUT_S, **settings})  # type: ignore[arg-type]
            reloader = Reloader(lambda: config, config)
            task = asyncio.create_task(run(daemon, [Address(target)], reloader, time.monotonic()))
            it = Running(task, channel, gate, manager, lines)
            assert await it.told() == f"READY=1\nSTATUS=serving tiny at {target}"
            yield it
            await task


def leave() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def test_the_first_signal_lets_requests_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health says so, systemd hears it with the time it may take, new requests are refused, old ones go on."""
    async with running(folder, monkeypatch) as it:
        call = it.generate(20)
        assert (await call.read()).HasField("started")
        leave()
        assert await it.told() == f"STOPPING=1\nEXTEND_TIMEOUT_USEC={(TIMEOUT_S + 5) * 1_000_000}"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await it.generate(1).read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        health = health_pb2_grpc.HealthStub(it.channel)
        status = (await health.Check(health_pb2.HealthCheckRequest())).status
        assert status == health_pb2.HealthCheckResponse.NOT_SERVING
        it.gate.release(100)
        assert await tokens_of(call) == 20
    assert [line["event"] for line in it.lines] == ["ready", "started", "draining", "refused", "finished", "stopped"]
    assert it.lines[-1]["drained"] is True
    assert not (folder / "s").exists()


async def test_the_second_signal_leaves_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the step that runs; whoever still waits for an answer is told to ask another daemon."""
    async with running(folder, monkeypatch) as it:
        call = it.generate(150)
        await call.read()
        leave()
        await it.told()
        leave()
        await abandoned(it, call)
    assert it.lines[-1] == {"event": "stopped", "log_level": "info", "drained": False}


async def test_draining_ends_at_its_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that takes longer is told to ask another daemon."""
    async with running(folder, monkeypatch, drain_timeout_s=0) as it:
        call = it.generate(150)
        await call.read()
        leave()
        await abandoned(it, call)
    assert next(line for line in it.lines if line["event"] == "stopped")["drained"] is False


async def tokens_of(call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]) -> int:
    """How many tokens still come before Finished."""
    tokens = 0
    while (event := await call.read()).HasField("delta"):
        tokens += len(event.delta.token_ids)
    assert event.HasField("finished")
    return tokens


async def abandoned(it: Running, call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]) -> None:
    """Lets the step that runs end, token by token, until the daemon has left; the call must then have failed."""
    while not it.task.done():
        it.gate.release()
        await asyncio.wait({it.task}, timeout=0.02)  # 150 tokens take 3 s then, which is later than any signal
    with pytest.raises(grpc.aio.AioRpcError, match="the daemon stopped before the request had ended") as error:
        await tokens_of(call)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_idle_daemon_leaves_at_the_first_signal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its socket, and with signals as they were."""
    before = signal.getsignal(signal.SIGTERM)
    async with running(folder, monkeypatch) as it:
        leave()
    assert [line["event"] for line in it.lines] == ["ready", "draining", "stopped"]
    assert it.lines[0]["listen"] == f"unix:{folder}/s"
    assert it.lines[0]["model"] == "tiny"
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (folder / "s").exists()


async def test_a_hangup_reads_the_configuration_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd hears when it begins and that it is over; the log says what took effect."""
    async with running(folder, monkeypatch) as it:
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await it.told()).startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert await it.told() == "READY=1"
        leave()
    assert [line["event"] for line in it.lines] == ["ready", "reloaded", "draining", "stopped"]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


async def test_the_watchdog_is_fed_while_steps_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as systemd asks; a row whose step never ends silences it, and the next step brings it back."""
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    async with running(folder, monkeypatch, stall_timeout_s=1.0) as it:
        assert await it.told() == "WATCHDOG=1"
        call = it.generate(2)
        await call.read()
        while not any("no longer fed" in line["event"] for line in it.lines):
            told = asyncio.create_task(it.told())
            await asyncio.wait({told}, timeout=0.1)
            told.cancel()
        it.gate.release(100)
        assert await it.told() == "WATCHDOG=1"
        leave()
        while (await it.told()).startswith("WATCHDOG=1"):
            pass


async def to_the_end(watch: grpc.aio.UnaryStreamCall[telemetry_pb2.WatchRequest, telemetry_pb2.Snapshot]) -> None:
    while await watch.read() is not grpc.aio.EOF:
        pass


async def test_who_watches_hears_that_the_daemon_leaves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While requests end it still sees them, draining; then its call ends, and holds up nobody."""
    async with running(folder, monkeypatch) as it:
        call = it.generate(20)
        await call.read()
        request = telemetry_pb2.WatchRequest(interval_ms=100)
        watch = telemetry_pb2_grpc.TelemetryStub(it.channel).Watch(request)
        assert not (await watch.read()).models[0].engine.draining
        leave()
        while not (await watch.read()).models[0].engine.draining:
            pass
        for _ in range(20):
            it.gate.release()
        assert await tokens_of(call) > 0
        with pytest.raises(grpc.aio.AioRpcError, match="the daemon is shutting down") as error:
            await to_the_end(watch)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_signals_save_power_and_end_that(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says what it wants, so it may come twice; the log says who wanted it, and requests go on."""
    async with running(folder, monkeypatch) as it:
        call = it.generate(4)
        assert (await call.read()).HasField("started")
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        while "normal" not in (modes := [line["mode"] for line in it.lines if line["event"] == "power mode"]):
            await asyncio.sleep(0)
        assert modes == ["low", "normal"]
        it.gate.release(100)
        assert await tokens_of(call) == 4
        leave()
