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
from .errors import EdgeQwenError
from .memory import trim_after_load, use_one_heap
from .reload import Reloader

if TYPE_CHECKING:  # loaded late: they cost time and memory that `--help` need not pay
    import grpc.aio

    from .caretaker import Caretaker, PowerMode
    from .clients import Clients
    from .model import Model
    from .models import Models
    from .observability import Observability
    from .package import Package
    from .sensing.board import Board
    from .service import GenerationService
    from .startup import Startup
    from .telemetry import TelemetryService

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
@click.option("--listen", help=f"unix:PATH, or HOST:PORT on loopback. Default: {DEFAULT_LISTEN}")
@click.option(
    "--metrics-listen", help="Where Prometheus finds metrics: unix:PATH, or HOST:PORT on loopback. Default: off"
)
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
    from .observability import check_observability

    try:
        checked = check(read(), extras=(check_observability,))
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
    # The engine must not wait the default 5 ms while asyncio sends what the last step gave.
    sys.setswitchinterval(0.0005)
    from .logs import configure
    from .observability import Observability
    from .startup import Startup
    from .supervision import tell

    configure(config.log_format, config.log_level)
    started_s = time.monotonic()
    address = Address(config.listen)
    address.require_free()  # before the load: a second daemon must find out at once
    daemon = Daemon.load(config, Startup(tell), Observability.open(config))
    reloader = Reloader(read, config, lambda new: configure(new.log_format, new.log_level))
    await run(daemon, address, reloader, started_s)


async def run(daemon: Daemon, address: Address, reloader: Reloader, started_s: float) -> None:
    """Serves until a signal says to leave, then drains. `started_s` is when loading began, on the monotonic clock."""
    import structlog

    from .supervision import stopping, supervised

    log = structlog.get_logger()
    signals = _Signals(daemon.set_power_mode)
    try:
        listen = await daemon.listen(address)
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
        server: grpc.aio.Server,
        generation: GenerationService,
        caretaker: Caretaker,
        telemetry: TelemetryService,
        observability: Observability,
    ) -> None:
        self._models = models
        self._server = server
        self._generation = generation
        self._caretaker = caretaker
        self._telemetry = telemetry
        self._observability = observability

    @classmethod
    def load(cls, config: Config, startup: Startup, observability: Observability) -> Daemon:
        """Loads the packages; nothing listens yet. Raises PackageError, ConfigError or SessionError."""
        from .clients import Clients
        from .sensing.board import Board

        clients = Clients(config.limits.book)
        models = _load_models(config, startup, clients, observability)
        board = Board(folders=(config.state_dir, config.package))
        caretaker = _make_caretaker(models, config)
        services = make_server(models, config.max_message_bytes, clients, board, caretaker, observability.interceptors)
        trim_after_load()
        return cls(models, *services, observability)

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

    async def listen(self, address: Address) -> str:
        """Starts the server; returns where it listens."""
        listen = address.bind(self._server.add_insecure_port)
        await self._caretaker.start()
        await self._server.start()
        await self._observability.start(self._telemetry.snapshot, self._models)
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
            await asyncio.wait_for(self._generation.wait_ended(), _GOODBYE_S)
        await self._server.stop(_GOODBYE_S)
        await self._observability.close()


def _load_models(config: Config, startup: Startup, clients: Clients, observability: Observability) -> Models:
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
        model = load_model(package, config, adapters_dir, clients=clients)
        observability.observe(model)
        return model

    paths = [config.package, *config.more_packages]
    loader = Loader(open_package, load, lambda package: footprint_of_loaded(package, config), available_bytes)
    models = Models(Repository(config.packages_dir or config.package.parent, paths), loader, config.drain_timeout_s)
    for path in paths:
        package = open_package(path, config.variant if path == config.package else None, startup.checked)
        startup.loading(package.build.memory.weights_bytes)
        models.require_room_for(package)
        models.add(load(package))
    return models


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
    clients: Clients | None = None,
    board: Board | None = None,
    caretaker: Caretaker | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> tuple[grpc.aio.Server, GenerationService, Caretaker, TelemetryService]:
    """A server with all services in front of `models`, which listens nowhere yet.

    `clients` are those of the models; telemetry reads `board`; `caretaker` looks after the models, None makes one that
    reads no board.
    """
    import grpc.aio
    from grpc_reflection.v1alpha import reflection

    from edgeqwen.v1 import (
        control_pb2_grpc,
        generation_pb2_grpc,
        health_pb2_grpc,
        models_pb2_grpc,
        telemetry_pb2_grpc,
    )

    from .caretaker import Caretaker
    from .control import ControlService
    from .health import SERVICES, Health
    from .health_report import HealthService
    from .models_service import ModelsService
    from .service import GenerationService
    from .telemetry import TelemetryService

    server = grpc.aio.server(
        interceptors=interceptors,
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.so_reuseport", 0),  # two daemons on one port would share its clients in silence
        ],
    )
    generation, caretaker = GenerationService(models), caretaker or Caretaker(models, Health())
    telemetry = TelemetryService(models, clients, board)
    generation_pb2_grpc.add_GenerationServicer_to_server(generation, server)
    models_pb2_grpc.add_ModelsServicer_to_server(ModelsService(models), server)
    telemetry_pb2_grpc.add_TelemetryServicer_to_server(telemetry, server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(caretaker), server)
    control_pb2_grpc.add_ControlServicer_to_server(ControlService(caretaker), server)
    caretaker.health.add_to(server)
    names = [*(name for name in SERVICES if name), "grpc.health.v1.Health", reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    return server, generation, caretaker, telemetry


if __name__ == "__main__":
    main()
