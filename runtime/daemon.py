"""`edgeqwend`: loads a package and serves it until told to leave."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from .config import DEFAULT_LISTEN, ENVIRONMENT_PREFIX, Config, load_config
from .errors import AddressInUse, ConfigError, EdgeQwenError, Fault

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
@click.option("--listen", help=f"unix:PATH, or HOST:PORT on loopback. Default: {DEFAULT_LISTEN}")
@click.option("--queue-limit", type=int, help="Requests that may wait; more are refused. Default: 64")
@click.option("--drain-timeout-s", type=float, help="How long requests may go on after SIGTERM. Default: 30")
@click.option("--verify/--no-verify", default=None, help="Check every file's digest first. Default: verify")
@click.option("--threads", type=int, help="Threads of the model. Default: the profile's")
@click.option("--slots", type=int, help="Requests that decode together. Default: the profile's")
@click.option("--context-tokens", type=int, help="Prompt and answer together. Default: the profile's")
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
    from .logs import configure  # the modules below cost time and memory that `--help` need not pay

    configure(config.log_format, config.log_level)
    import structlog

    from .notify import notify

    log = structlog.get_logger("daemon")
    started_s = time.monotonic()
    address = _Address.claim(config.listen)  # before the load: a second daemon must find out at once
    daemon = await _Daemon.load(config)
    signals = _Signals()
    try:
        await daemon.listen(address)
        log.info("ready", listen=config.listen, seconds=round(time.monotonic() - started_s, 2), **daemon.summary)
        notify("READY=1")
        await signals.first.wait()
        notify("STOPPING=1")
        log.info("draining", timeout_s=config.drain_timeout_s)
        drained = await daemon.drain(config.drain_timeout_s, signals.second)
        log.info("stopped", drained=drained)
    finally:
        await daemon.close()
        address.release()


class _Signals:
    """The first and the second request to leave."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


class _Daemon:
    """The loaded model and the server in front of it."""

    def __init__(self, config: Config) -> None:
        import grpc.aio
        from grpc_reflection.v1alpha import reflection

        from edgeqwen.v1 import (
            generation_pb2_grpc,
            telemetry_pb2,
            telemetry_pb2_grpc,
        )

        from .chat import ChatTemplate
        from .engine import Engine
        from .health import SERVICES, Health
        from .package import Package
        from .requests import RequestReader
        from .service import GenerationService
        from .session import OrtSession
        from .telemetry import TelemetryService
        from .tokenizer import Tokenizer

        package = Package.open(config.package, config.variant, verify=config.verify)
        package.require_this_machine()
        build = package.build
        profile = build.profile.runtime
        session = OrtSession(
            package.serving_graph,
            slots=config.slots or profile.slots,
            context_tokens=min(config.context_tokens or profile.context_tokens, build.model.context_tokens),
            threads=config.threads or min(profile.threads, os.cpu_count() or 1),
            provider=build.needs.provider,
            provider_options=build.profile.execution.options,
        )
        tokenizer = Tokenizer.from_file(package.tokenizer_file)
        self._engine = Engine(
            session,
            tokenizer,
            eos_token_ids=frozenset(build.model.eos_token_ids),
            queue_limit=config.queue_limit,
            prefill_chunk_tokens=profile.prefill_chunk_tokens,
            kv_budget_tokens=(profile.kv_cache.budget_mb << 20) // session.spec.kv_bytes_per_token,
        )
        template = ChatTemplate(
            package.chat_template,
            bos_token=package.special_token("bos_token"),
            eos_token=package.special_token("eos_token"),
        )
        reader = RequestReader(
            tokenizer, template, build.sampling, session.spec.vocab_size, self._engine.context_tokens
        )
        model = telemetry_pb2.ModelInfo(
            name=build.name,
            variant=build.variant,
            precision=build.precision,
            provider_requested=build.profile.execution.provider,
            provider=session.spec.provider,
            context_tokens=self._engine.context_tokens,
            weights_bytes=build.memory.weights_bytes,
            build_digest=package.build_digest,
        )
        self.summary = {
            "model": build.name,
            "variant": build.variant,
            "precision": build.precision,
            "provider": session.spec.provider,
        }
        self._health = Health()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.so_reuseport", 0),  # two daemons on one port would share its clients in silence
            ]
        )
        generation_pb2_grpc.add_GenerationServicer_to_server(
            GenerationService(self._engine, reader, build.name), self._server
        )
        telemetry_pb2_grpc.add_TelemetryServicer_to_server(
            TelemetryService(self._engine, model, sensors=build.profile.sensors.thermal_zones), self._server
        )
        self._health.add_to(self._server)
        reflection.enable_server_reflection(
            [*(name for name in SERVICES if name), "grpc.health.v1.Health", reflection.SERVICE_NAME],
            self._server,
        )

    @classmethod
    async def load(cls, config: Config) -> _Daemon:
        """Loads the package; the server is not listening yet."""
        return cls(config)

    async def listen(self, address: _Address) -> None:
        """Starts the engine and the server."""
        address.bind(self._server.add_insecure_port)
        self._engine.start()
        await self._server.start()
        await self._health.serving()

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
        await self._server.stop(_GOODBYE_S)


@dataclass(frozen=True)
class _Address:
    """Where the daemon listens: a unix socket's path, or HOST:PORT on loopback."""

    target: str
    path: Path | None

    @classmethod
    def claim(cls, listen: str) -> _Address:
        """Checks that `listen` can be had, and removes a socket that a dead daemon left.

        Raises AddressInUse, or ConfigError for an address that is not allowed.
        """
        if not listen.startswith("unix:"):
            _require_loopback(listen)
            return cls(listen, None)
        path = Path(listen.removeprefix("unix:"))
        if not path.parent.is_dir():
            raise ConfigError([Fault("listen", f"the folder {path.parent} does not exist: create it")])
        if len(os.fsencode(path)) > 107:  # sockaddr_un.sun_path, with its final zero
            raise ConfigError([Fault("listen", f"the path is longer than the 107 bytes a socket can have: {path}")])
        if path.exists():
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise ConfigError([Fault("listen", f"{path} is there and is not a socket: remove it")])
            if _answers(path):
                raise AddressInUse(f"another process listens at {listen}: stop it, or choose another --listen")
            path.unlink()
        return cls(listen, path)

    def bind(self, add_port: object) -> None:
        """Binds by `add_port`. A socket is for its owner and group only, from the moment it is there."""
        mask = os.umask(0o117)
        try:
            bound = add_port(self.target)  # type: ignore[operator]
        except RuntimeError as error:
            raise AddressInUse(f"cannot listen at {self.target}: is another process there?") from error
        finally:
            os.umask(mask)
        if not bound:
            raise AddressInUse(f"cannot listen at {self.target}: is another process there?")

    def release(self) -> None:
        """Removes the socket file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True


def _require_loopback(listen: str) -> None:
    host = listen.rpartition(":")[0].strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        message = f"must be a unix socket or a loopback address: nothing protects {host} from others on the network"
        raise ConfigError([Fault("listen", message)])


if __name__ == "__main__":
    main()
