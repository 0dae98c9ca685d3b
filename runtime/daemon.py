"""`edgeqwend`: loads a package and serves it until told to leave."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .address import Address
from .config import DEFAULT_LISTEN, DEFAULT_STATE_DIR, ENVIRONMENT_PREFIX, Config, load_config
from .errors import AddressInUse, ConfigError, EdgeQwenError, Fault
from .memory import trim_after_load, use_one_heap
from .reload import Reloader

if TYPE_CHECKING:  # loaded late: they cost time and memory that `--help` need not pay
    import grpc.aio

    from .access.certificates import Certificates
    from .access.entrance import Entrance
    from .access.rules import Rules
    from .caretaker import Caretaker, PowerMode
    from .clients import Clients
    from .http.listener import HttpListener
    from .model import Model
    from .models import Models
    from .open_calls import OpenCalls
    from .package import Package
    from .sensing.board import Board
    from .startup import Startup

_POWER_SIGNALS: Mapping[signal.Signals, PowerMode] = {signal.SIGUSR1: "low", signal.SIGUSR2: "normal"}
_GOODBYE_S = 1.0  # how long the last messages may take to reach their clients


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  edgeqwend --package qwen.ortpackage
  edgeqwend --package qwen.ortpackage --listen unix:/tmp/edgeqwend.sock --log-format console
  EDGEQWEN_QUEUE_LIMIT=16 edgeqwend --config /etc/edgeqwen/edgeqwend.yaml

\b
A setting is taken from its flag, else from EDGEQWEN_<NAME>, else from the --config file, else it has its default.
`tls`, `tokens` and `clients` are in the file only.
The first SIGTERM or SIGINT stops accepting requests and lets running ones end; a second leaves at once.
SIGHUP reads the configuration again; the log says what of it needs a restart.
SIGUSR1 saves power, SIGUSR2 ends that.
Exit status: 0 left as told, 1 error, 2 usage, 3 configuration, 4 package, 5 model cannot run, 6 address in use.""",
)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML file of these settings.")
@click.option("--package", type=click.Path(path_type=Path), help="The package to serve.")
@click.option("--variant", help="Its variant; needed if it has several.")
@click.option(
    "--more-packages",
    type=click.Path(path_type=Path),
    multiple=True,
    callback=lambda _, __, paths: list(paths) or None,
    help="A package to serve beside it; may be given again.",
)
@click.option("--packages-dir", type=click.Path(path_type=Path), help="Where `edgeqwen models load` finds packages.")
@click.option("--adapters-dir", type=click.Path(path_type=Path), help="More adapters: a folder of *.onnx_adapter.")
@click.option(
    "--listen",
    multiple=True,
    callback=lambda _, __, given: list(given) or None,
    help=f"unix:PATH or HOST:PORT; may be given again. Default: {DEFAULT_LISTEN}",
)
@click.option("--socket-group", help="Whose members may connect to unix sockets. Default: edgeqwen")
@click.option("--connections", type=int, help="At once, to unix sockets and to TCP ports. Default: 256")
@click.option("--connections-per-user", type=int, help="Of them to unix sockets from one user. Default: 64")
@click.option("--insecure/--no-insecure", default=None, help="Allow TCP without TLS off loopback. Default: no")
@click.option("--http-listen", help="The OpenAI API over HTTP: unix:PATH or HOST:PORT. Default: nowhere")
@click.option("--queue-limit", type=int, help="Requests that may wait; more are refused. Default: 64")
@click.option("--drain-timeout-s", type=float, help="How long requests may go on after SIGTERM. Default: 30")
@click.option("--stall-timeout-s", type=float, help="How long a step may take before it counts as hung. Default: 30")
@click.option("--low-power-battery-percent", type=float, help="Save power on a battery with less. Default: never")
@click.option("--verify/--no-verify", default=None, help="Check every file's digest first. Default: verify")
@click.option("--threads", type=int, help="Threads of the model. Default: measured here, else the profile's")
@click.option("--slots", type=int, help="Requests that decode together. Default: likewise")
@click.option("--context-tokens", type=int, help="Prompt and answer together. Default: the profile's")
@click.option("--device", help="Of OpenVINO: CPU, GPU or NPU. Default: the profile's")
@click.option("--share-prefix", help="Start prompts from earlier ones of: client, all or off. Default: client")
@click.option("--speculate/--no-speculate", default=None, help="Guess tokens from the text. Default: speculate")
@click.option("--deterministic/--no-deterministic", default=None, help="For requests that do not say. Default: no")
@click.option("--simulate/--no-simulate", default=None, help="Verify an NPU's package on x86-64. Default: no")
@click.option("--state-dir", type=click.Path(path_type=Path), help=f"What was measured. Default: {DEFAULT_STATE_DIR}")
@click.option("--max-message-bytes", type=int, help="The largest request accepted. Default: 4194304")
@click.option("--log-format", help="auto, json or console. Default: auto")
@click.option("--log-level", help="debug, info, warning or error. Default: info")
@click.option("--check-config", "check_only", is_flag=True, help="Say what is wrong or what would run, and leave.")
@click.option("--json", "as_json", is_flag=True, help="Of --check-config: as one JSON object.")
@click.version_option(package_name="edgeqwen")
def main(config_file: Path | None, check_only: bool, as_json: bool, **flags: object) -> None:
    """Serve a package over gRPC."""
    read = partial(load_config, config_file or _path_from_environment(), os.environ, flags)
    try:
        if check_only:
            sys.exit(_check(read, as_json=as_json))
        asyncio.run(serve(read))
    except EdgeQwenError as error:
        click.echo(f"edgeqwend: {error}", err=True)
        sys.exit(error.exit_code)


def _path_from_environment() -> Path | None:
    value = os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    return Path(value) if value else None


def _check(read: Callable[[], Config], *, as_json: bool) -> int:
    """Prints what `--check-config` finds; returns the exit status."""
    from .check import Checked, check

    try:
        checked = check(read(), extras=(_check_certificates, _check_http))
    except EdgeQwenError as error:
        checked = Checked((error,), (), {})
    if as_json:
        click.echo(json.dumps(checked.as_json()))
        return checked.exit_code
    for name, value in checked.runs.items():
        click.echo(f"{name:16} {value}")
    for warning in checked.warnings:
        click.echo(f"edgeqwend: warning: {warning}", err=True)
    for line in checked.lines:
        click.echo(f"edgeqwend: {line}", err=True)
    return checked.exit_code


async def serve(read: Callable[[], Config]) -> None:
    """Loads, serves, drains and returns. `read` reads the configuration, again for each reload."""
    config = read()
    faulthandler.enable()  # when the watchdog's SIGABRT ends it, the journal has where each thread was, and no values
    for number in _POWER_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # while it loads, they shall not end it
    use_one_heap()
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else whoever knocks at a TLS port has a line of the log
    # The engine must not wait the default 5 ms while asyncio sends what the last step gave.
    sys.setswitchinterval(0.0005)
    from .logs import configure
    from .startup import Startup
    from .supervision import tell

    configure(config.log_format, config.log_level)
    started_s = time.monotonic()
    off_loopback = config.tls is not None or config.insecure
    addresses = [Address(listen, off_loopback=off_loopback) for listen in config.listen]
    for address in addresses:
        address.require_free()  # before the load: a second daemon must find out at once
    entrance = _make_entrance(config)
    http = _make_http(config, lambda: entrance.gate.rules)
    daemon = Daemon.load(config, entrance, Startup(tell), http)
    reloader = Reloader(read, config, lambda new: configure(new.log_format, new.log_level))
    reloader.add(lambda new: entrance.reload(_make_rules(new)))
    if http is not None:
        reloader.add(lambda _: http.reload())
    await run(daemon, addresses, reloader, started_s)


async def run(daemon: Daemon, addresses: Sequence[Address], reloader: Reloader, started_s: float) -> None:
    """Serves until a signal says to leave, then drains. `started_s` is when loading began, on the monotonic clock."""
    import structlog

    from .supervision import stopping, supervised

    log = structlog.get_logger()
    signals = _Signals(daemon.set_power_mode)
    try:
        listen = " ".join(await daemon.listen(addresses))
        log.info("ready", listen=listen, seconds=round(time.monotonic() - started_s, 2), **daemon.summary)
        daemon.follow(reloader.config)
        reloader.add(daemon.follow)
        async with supervised(daemon.alive, reloader, f"STATUS=serving {daemon.summary['model']} at {listen}"):
            await signals.first.wait()
            timeout_s = reloader.config.drain_timeout_s
            stopping(timeout_s)
            log.info("draining", timeout_s=timeout_s)
            drained = await daemon.drain(timeout_s, signals.second)
    finally:
        await daemon.close()
        for address in addresses:
            address.release()
        signals.forget()
    log.info("stopped", drained=drained)


class _Signals:
    """The first and the second request to leave. A third gets the system's answer: the process ends on the spot.

    Until then `set_power_mode` hears of those that save power or end that.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, set_power_mode: Callable[[PowerMode], None]) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in self.NUMBERS:
            self._loop.add_signal_handler(number, self._received)
        for number, mode in _POWER_SIGNALS.items():
            self._loop.add_signal_handler(number, set_power_mode, mode)

    def _received(self) -> None:
        if not self.first.is_set():
            self.first.set()
            return
        self.second.set()
        self.forget()

    def forget(self) -> None:
        """From now on signals do what the system has them do."""
        for number in (*self.NUMBERS, *_POWER_SIGNALS):
            self._loop.remove_signal_handler(number)


class Daemon:
    """The loaded models and the server in front of them. `summary` describes the default one in the log."""

    def __init__(
        self,
        models: Models,
        entrance: Entrance,
        server: grpc.aio.Server,
        calls: OpenCalls,
        caretaker: Caretaker,
        http: HttpListener | None = None,
    ) -> None:
        self._models = models
        self._entrance = entrance
        self._http = http
        self._server = server
        self._calls = calls
        self._caretaker = caretaker

    @classmethod
    def load(cls, config: Config, entrance: Entrance, startup: Startup, http: HttpListener | None = None) -> Daemon:
        """Loads the packages; nothing listens yet. Raises PackageError, ConfigError or SessionError."""
        from .clients import Clients
        from .sensing.board import Board

        clients = Clients(config.limits.book)
        models = _load_models(config, startup, clients)
        board = Board(folders=(config.state_dir, config.package))
        caretaker = _make_caretaker(models, config)
        server, calls, caretaker = make_server(models, config.max_message_bytes, entrance, clients, board, caretaker)
        trim_after_load()
        return cls(models, entrance, server, calls, caretaker, http)

    @property
    def summary(self) -> dict[str, str | int]:
        """Of the default model."""
        names = ("precision", "provider", "variant", "prefill_threads", "decode_threads", "threads_from", "slots_from")
        model, *others = self._models.ready
        summary = {name: getattr(model.facts, name) for name in names} | {"slots": model.engine.stats().slots}
        more = {"more_models": ", ".join(each.name for each in others)} if others else {}
        return {"model": model.name, **summary, **more}

    def follow(self, config: Config) -> None:
        """Takes what of `config` may change while it runs."""
        self._caretaker.set_bounds(config.stall_timeout_s, config.low_power_battery_percent)

    async def listen(self, addresses: Sequence[Address]) -> list[str]:
        """Starts the servers; returns where they listen."""
        listen = [address.bind(self._entrance.add_port) for address in addresses]
        await self._caretaker.start()
        await self._server.start()
        self._entrance.start()
        if self._http is not None:
            listen.append(f"HTTP {await self._http.start(self._models)}")
        return listen

    def alive(self) -> bool:
        """Whether every engine that has work gets on. Never blocks."""
        return self._caretaker.alive()

    def set_power_mode(self, mode: PowerMode) -> None:
        """Saves power, or no longer, as a signal says."""
        self._caretaker.set_power_mode(mode, by="signal")

    async def drain(self, timeout_s: float, at_once: asyncio.Event) -> bool:
        """Refuses new requests and waits for the running ones; True if all of them ended."""
        await self._caretaker.drain()
        return await self._models.drain(timeout_s, at_once)

    async def close(self) -> None:
        """Ends the engines, then the server; requests that have not ended get an error."""
        await self._caretaker.stop()
        await self._models.close()
        # A server that is told to stop while a call is open closes the connection right behind the call's end, and a
        # client that is just writing then loses what it has not read. Told afterwards, it waits until the client has.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._calls.wait_none(), _GOODBYE_S)
        await self._server.stop(_GOODBYE_S)
        await self._entrance.close()
        if self._http is not None:
            await self._http.close()


def _make_http(config: Config, rules: Callable[[], Rules]) -> HttpListener | None:
    """None unless it is asked for. Raises ConfigError or AddressInUse."""
    if config.http_listen is None:
        return None
    try:
        from .http.callers import Callers
        from .http.listener import HttpListener
    except ModuleNotFoundError as error:
        message = f"needs {error.name}, which is not installed: pip install 'edgeqwen[http]'"
        raise ConfigError([Fault("http_listen", message)]) from error
    http = HttpListener(
        config.http_listen,
        config.max_message_bytes,
        Callers(rules).admit,
        tls=config.tls,
        insecure=config.insecure,
        socket_group=config.socket_group,
    )
    http.require_free()
    return http


def _check_http(config: Config) -> None:
    """Raises ConfigError. Who listens there may be the daemon whose configuration is checked."""
    with suppress(AddressInUse):
        _make_http(config, lambda: _make_rules(config))


def _load_models(config: Config, startup: Startup, clients: Clients) -> Models:
    """The packages that the configuration names, and what may come later."""
    from .machine import available_bytes
    from .model import footprint_of_loaded, load_model
    from .models import Loader, Models
    from .package import Package, variants_of
    from .repository import Repository

    def open_package(path: Path, variant: str | None, progress: Callable[[int], None] = lambda _: None) -> Package:
        if variant is None and config.variant in variants_of(path):
            variant = config.variant
        package = Package.open(path, variant, verify=config.verify, progress=progress)
        package.require_this_machine(simulate=config.simulate)
        return package

    def load(package: Package) -> Model:
        adapters_dir = config.adapters_dir if package.root == config.package else None
        return load_model(package, config, adapters_dir, clients=clients)

    paths = [config.package, *config.more_packages]
    loader = Loader(open_package, load, lambda package: footprint_of_loaded(package, config), available_bytes)
    models = Models(Repository(config.packages_dir or config.package.parent, paths), loader, config.drain_timeout_s)
    for path in paths:
        package = open_package(path, config.variant if path == config.package else None, startup.checked)
        startup.loading(package.build.memory.weights_bytes)
        models.require_room_for(package)
        models.add(load(package))
    return models


def _make_entrance(config: Config) -> Entrance:
    """Raises ConfigError for certificates that cannot be used."""
    from .access.entrance import Entrance
    from .replies import abort

    return Entrance(
        _make_rules(config),
        abort,
        _load_certificates(config),
        socket_group=config.socket_group,
        connections=config.connections,
        connections_per_user=config.connections_per_user,
    )


def _check_certificates(config: Config) -> None:
    """Raises ConfigError for certificates that cannot be used."""
    _load_certificates(config)


def _make_rules(config: Config) -> Rules:
    from .access.rules import Rules
    from .access_settings import roles_of

    return Rules(config.tokens, roles_of(config.clients), os.geteuid())


def _load_certificates(config: Config) -> Certificates | None:
    """None where the configuration has no TLS. Raises ConfigError for certificates that cannot be used."""
    if config.tls is None:
        return None
    from .access.certificates import Certificates, Files

    return Certificates(Files(config.tls.certificate, config.tls.key, config.tls.client_ca))


def _make_caretaker(models: Models, config: Config) -> Caretaker:
    from .battery import battery_percent
    from .caretaker import Caretaker
    from .health import Health
    from .sensing.board import Board

    sensors = [pattern for model in models.ready for pattern in model.sensors]
    return Caretaker(
        models,
        Health(),
        Board(sensors=sensors, folders=(config.state_dir, config.package)).read,
        stall_timeout_s=config.stall_timeout_s,
        battery=battery_percent,
        low_power_battery_percent=config.low_power_battery_percent,
    )


def make_server(
    models: Models,
    max_message_bytes: int,
    entrance: Entrance,
    clients: Clients | None = None,
    board: Board | None = None,
    caretaker: Caretaker | None = None,
) -> tuple[grpc.aio.Server, OpenCalls, Caretaker]:
    """A server with all services in front of `models`, to be reached by `entrance`, which listens nowhere yet.

    `clients` are those of the models; telemetry reads `board`; `caretaker` looks after the models, None makes one that
    reads no board.
    """
    import grpc.aio

    from edgeqwen.kserve import inference_pb2_grpc
    from edgeqwen.v1 import (
        control_pb2_grpc,
        generation_pb2_grpc,
        health_pb2_grpc,
        models_pb2_grpc,
        telemetry_pb2_grpc,
    )

    from .caretaker import Caretaker
    from .control import ControlService
    from .generator import Generator
    from .health import SERVICES, Health
    from .health_report import HealthService
    from .kserve.service import SERVICE, InferenceService
    from .models_service import ModelsService
    from .open_calls import OpenCalls
    from .reflection import add_reflection
    from .service import GenerationService
    from .telemetry import TelemetryService

    server = grpc.aio.server(
        interceptors=[entrance.gate],
        options=[
            *entrance.options,
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.so_reuseport", 0),  # two daemons on one port would share its clients in silence
        ],
    )
    entrance.attach(server)
    calls, generator, caretaker = OpenCalls(), Generator(models), caretaker or Caretaker(models, Health())
    caretaker.warn_by(entrance.warnings)
    generation_pb2_grpc.add_GenerationServicer_to_server(GenerationService(models, generator, calls), server)
    models_pb2_grpc.add_ModelsServicer_to_server(ModelsService(models), server)
    telemetry = TelemetryService(models, clients, board, warnings=caretaker.warnings)
    telemetry_pb2_grpc.add_TelemetryServicer_to_server(telemetry, server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(caretaker), server)
    control_pb2_grpc.add_ControlServicer_to_server(ControlService(caretaker), server)
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceService(models, generator, calls), server)
    caretaker.health.add_to(server)
    add_reflection(server, [*(name for name in SERVICES if name), SERVICE, "grpc.health.v1.Health"])
    return server, calls, caretaker


if __name__ == "__main__":
    main()
