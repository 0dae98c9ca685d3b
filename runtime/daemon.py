"""`edgeqwend`: loads a package and serves it until told to leave."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .address import Address
from .config import DEFAULT_LISTEN, DEFAULT_STATE_DIR, ENVIRONMENT_PREFIX, Config, load_config
from .errors import ConfigError, EdgeQwenError, Fault, LocalSettingsError, PackageError, SessionError
from .memory import trim_after_load, use_one_heap
from .notify import notify

if TYPE_CHECKING:  # loaded late: they cost time and memory that `--help` need not pay
    import grpc.aio
    from structlog.typing import FilteringBoundLogger

    from .adapters import Adapter
    from .chat import ChatTemplate
    from .engine import Engine
    from .health import Health
    from .package import Package
    from .service import GenerationService
    from .session import Session
    from .settings import RunSettings

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
Exit status: 0 left as told, 1 error, 2 usage, 3 configuration, 4 package, 5 model cannot run, 6 address in use.""",
)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML file of these settings.")
@click.option("--package", type=click.Path(path_type=Path), help="The package to serve.")
@click.option("--variant", help="Its variant; needed if it has several.")
@click.option("--adapters-dir", type=click.Path(path_type=Path), help="More adapters: a folder of *.onnx_adapter.")
@click.option("--listen", help=f"unix:PATH, or HOST:PORT on loopback. Default: {DEFAULT_LISTEN}")
@click.option("--queue-limit", type=int, help="Requests that may wait; more are refused. Default: 64")
@click.option("--drain-timeout-s", type=float, help="How long requests may go on after SIGTERM. Default: 30")
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
@click.version_option(package_name="edgeqwen")
def main(config_file: Path | None, **flags: object) -> None:
    """Serve a package over gRPC."""
    try:
        config_file = config_file or _path_from_environment()
        config = load_config(config_file, os.environ, flags)
        asyncio.run(serve(config))
    except EdgeQwenError as error:
        click.echo(f"edgeqwend: {error}", err=True)
        sys.exit(error.exit_code)


def _path_from_environment() -> Path | None:
    value = os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    return Path(value) if value else None


async def serve(config: Config) -> None:
    """Loads, serves, drains and returns."""
    use_one_heap()
    # The engine must not wait the default 5 ms while asyncio sends what the last step gave.
    sys.setswitchinterval(0.0005)
    from .logs import configure

    configure(config.log_format, config.log_level)
    started_s = time.monotonic()
    address = Address(config.listen)
    address.require_free()  # before the load: a second daemon must find out at once
    daemon = Daemon.load(config)
    await run(daemon, address, config.drain_timeout_s, started_s)


async def run(daemon: Daemon, address: Address, drain_timeout_s: float, started_s: float) -> None:
    """Serves until a signal says to leave, then drains. `started_s` is when loading began, on the monotonic clock."""
    import structlog

    log = structlog.get_logger()
    signals = _Signals()
    try:
        listen = await daemon.listen(address)
        log.info("ready", listen=listen, seconds=round(time.monotonic() - started_s, 2), **daemon.summary)
        _tell_systemd(log, "READY=1")
        await signals.first.wait()
        _tell_systemd(log, "STOPPING=1", f"EXTEND_TIMEOUT_USEC={round((drain_timeout_s + 5) * 1e6)}")
        log.info("draining", timeout_s=drain_timeout_s)
        drained = await daemon.drain(drain_timeout_s, signals.second)
    finally:
        await daemon.close()
        address.release()
        signals.forget()
    log.info("stopped", drained=drained)


def _tell_systemd(log: FilteringBoundLogger, *state: str) -> None:
    try:
        notify(*state)
    except OSError as error:  # whoever started the daemon will find out; those it serves need not suffer
        log.warning("cannot reach NOTIFY_SOCKET", state=state[0], detail=str(error))


class _Signals:
    """The first and the second request to leave. A third gets the system's answer: the process ends on the spot."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in self.NUMBERS:
            self._loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        if not self.first.is_set():
            self.first.set()
            return
        self.second.set()
        self.forget()

    def forget(self) -> None:
        """From now on signals do what the system has them do."""
        for number in self.NUMBERS:
            self._loop.remove_signal_handler(number)


class Daemon:
    """The loaded model and the server in front of it. `summary` describes the model in the log."""

    def __init__(
        self,
        engine: Engine,
        server: grpc.aio.Server,
        generation: GenerationService,
        health: Health,
        summary: dict[str, str | int],
    ) -> None:
        self._engine = engine
        self._server = server
        self._generation = generation
        self._health = health
        self.summary = summary

    @classmethod
    def load(cls, config: Config) -> Daemon:
        """Loads the package; nothing listens yet. Raises PackageError or SessionError."""
        from edgeqwen.v1 import generation_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc

        from .adapters import find_adapters
        from .grammar import Grammars
        from .health import Health
        from .loading import load_engine
        from .package import Package
        from .presets import read_presets
        from .requests import RequestReader
        from .service import GenerationService
        from .telemetry import TelemetryService
        from .tokenizer import Tokenizer

        package = Package.open(config.package, config.variant, verify=config.verify)
        package.require_this_machine(simulate=config.simulate)
        build = package.build
        tokenizer = Tokenizer.from_file(package.tokenizer_file)  # first: the model fills the holes that parsing leaves
        adapters = find_adapters(package, config.adapters_dir)
        settings, session = _load_model(package, adapters, config)
        if config.deterministic and not session.spec.deterministic:
            message = f"must be false: {session.spec.provider} rounds by how many rows run"
            raise ConfigError([Fault("deterministic", message)])
        engine = load_engine(package, session, tokenizer, config, settings)
        template, vocab_size = _load_template(package), session.spec.vocab_size
        grammars = Grammars(tokenizer, vocab_size, frozenset(build.model.eos_token_ids))
        presets = read_presets(package.root)
        names = tuple(adapter.name for adapter in adapters)
        reader = RequestReader(
            tokenizer,
            template,
            build.sampling,
            vocab_size,
            engine.context_tokens,
            grammars,
            share_prefix=config.share_prefix if session.spec.reuses_rows else "off",
            presets=presets,
            deterministic=config.deterministic,
            exact=session.spec.deterministic,
            adapters=names,
        )
        model = telemetry_pb2.ModelInfo(
            name=build.name,
            variant=build.variant,
            precision=build.precision,
            provider_requested=build.runs_on,
            provider=session.spec.provider,
            context_tokens=engine.context_tokens,
            weights_bytes=build.memory.weights_bytes,
            build_digest=package.build_digest,
            prefill_threads=settings.prefill_threads,
            decode_threads=settings.decode_threads,
            threads_from=settings.threads_from,
            slots_from=settings.slots_from,
            presets=[
                telemetry_pb2.PresetInfo(name=name, description=preset.description, values=preset.values)
                for name, preset in sorted(presets.items())
            ],
            adapters=names,
        )
        server, health = _make_server(config), Health()
        generation = GenerationService(engine, reader, build.name)
        generation_pb2_grpc.add_GenerationServicer_to_server(generation, server)
        telemetry = TelemetryService(engine, model, sensors=build.profile.sensors.thermal_zones)
        telemetry_pb2_grpc.add_TelemetryServicer_to_server(telemetry, server)
        health.add_to(server)
        trim_after_load()
        names = ("precision", "provider", "variant", "prefill_threads", "decode_threads", "threads_from", "slots_from")
        summary = {name: getattr(model, name) for name in names}
        return cls(engine, server, generation, health, {"model": model.name, **summary, "slots": settings.slots})

    async def listen(self, address: Address) -> str:
        """Starts the engine and the server; returns where it listens."""
        listen = address.bind(self._server.add_insecure_port)
        self._engine.start()
        await self._health.serving()
        await self._server.start()
        return listen

    async def drain(self, timeout_s: float, at_once: asyncio.Event) -> bool:
        """Refuses new requests and waits for the running ones; True if all of them ended."""
        await self._health.not_serving()
        self._engine.drain()
        idle = asyncio.create_task(asyncio.to_thread(self._engine.wait_idle, timeout_s))
        hurry = asyncio.create_task(at_once.wait())
        await asyncio.wait({idle, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        return idle.done() and idle.result()

    async def close(self) -> None:
        """Ends the engine, then the server; requests that have not ended get an error."""
        await asyncio.to_thread(self._engine.stop)
        # A server that is told to stop while a call is open closes the connection right behind the call's end, and a
        # client that is just writing then loses what it has not read. Told afterwards, it waits until the client has.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._generation.wait_ended(), _GOODBYE_S)
        await self._server.stop(_GOODBYE_S)


def _load_model(package: Package, adapters: Sequence[Adapter], config: Config) -> tuple[RunSettings, Session]:
    """The model, and what it runs with. Local settings that cannot be used are no reason not to serve."""
    import structlog

    from .cpu import read_cpu
    from .loading import load_session
    from .localsettings import LocalSettingsFile
    from .settings import decide

    cores = len(os.sched_getaffinity(0))
    file = LocalSettingsFile(config.state_dir, package.build_digest, read_cpu())
    try:
        settings = decide(config, package, file, file.read(verify=config.verify), cores, adapters=bool(adapters))
        if settings.graph not in (package.serving_graph, package.adapter_graph):
            return settings, load_session(package, settings)
    except (LocalSettingsError, SessionError) as error:
        structlog.get_logger().warning("local settings ignored", reason=str(error))
        settings = decide(config, package, file, None, cores, adapters=bool(adapters))
    return settings, load_session(package, settings, adapters)


def _load_template(package: Package) -> ChatTemplate | None:
    """None for a model that was not made to chat; it still continues raw prompts."""
    from .chat import ChatTemplate

    try:
        source = package.chat_template
    except PackageError:
        return None
    bos_token, eos_token = package.special_token("bos_token"), package.special_token("eos_token")
    return ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)


def _make_server(config: Config) -> grpc.aio.Server:
    import grpc.aio
    from grpc_reflection.v1alpha import reflection

    from .health import SERVICES

    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.so_reuseport", 0),  # two daemons on one port would share its clients in silence
        ]
    )
    names = [*(name for name in SERVICES if name), "grpc.health.v1.Health", reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    return server


if __name__ == "__main__":
    main()
