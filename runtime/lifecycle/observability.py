"""What others see of the daemon with tools of their own: Prometheus's endpoint, and OpenTelemetry. Both may be off."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from ..access.address import Address
from ..access.call_errors import CallErrors
from ..configuration.config import Config
from ..errors import ConfigError, Fault
from ..models.model import Model

if TYPE_CHECKING:  # loaded late: megabytes that a daemon without them does not need
    import grpc.aio
    from prometheus_client import Metric

    from edgeqwen.v1 import telemetry_pb2 as pb

    from ..metrics.between import BetweenScrapes
    from ..metrics.exposition import Page
    from ..metrics.server import MetricsServer
    from ..otel.pipeline import Pipeline

_NOT_INSTALLED = "OpenTelemetry is not installed: pip install 'edgeqwen[otel]'"
_FLUSH_S = 3.0  # a collector that is not there must not hold up the daemon's end

ReadSnapshot = Callable[[], Awaitable["pb.Snapshot"]]


class Loaded(Protocol):
    """`Models`, as far as it is used here."""

    @property
    def ready(self) -> Sequence[Model]: ...


class Observability:
    """Made before the models are loaded, which it may observe; serves from `start` to `close`.

    Args:
        address: where Prometheus may ask; None: nowhere.
        pipeline: what goes to OpenTelemetry; None: nothing.
    """

    def __init__(self, address: Address | None = None, pipeline: Pipeline | None = None) -> None:
        self._address = address
        self._pipeline = pipeline
        self._server: MetricsServer | None = None
        self._between: BetweenScrapes | None = None

    @classmethod
    def open(
        cls, config: Config, environ: Mapping[str, str] = os.environ, *, errors: CallErrors | None = None
    ) -> Observability:
        """What `config` and the standard's variables ask for. Raises ConfigError or AddressInUse.

        Args:
            errors: what callers get, for OpenTelemetry; Prometheus has it from snapshots.
        """
        address = None
        if config.metrics_listen is not None:
            with _as_metrics_listen():
                address = Address(config.metrics_listen)
                address.require_free()
        pipeline = _open_pipeline(config, environ)
        if pipeline is not None and errors is not None:
            pipeline.observe_errors(errors)
        return cls(address, pipeline)

    @property
    def interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """What the server must have so that traces of its callers go on here."""
        if self._pipeline is None:
            return []
        from ..otel.interceptor import TraceInterceptor

        return [TraceInterceptor()]

    def observe(self, model: Model) -> None:
        """Hears of the requests of `model`, which is not started."""
        if self._pipeline is not None:
            model.engine.observe(self._pipeline.observer(model.name))

    async def start(self, read: ReadSnapshot, models: Loaded) -> None:
        """Serves metrics, if that is asked for. Raises AddressInUse or ConfigError."""
        if self._address is None:
            return
        from prometheus_client.process_collector import ProcessCollector

        from ..metrics.between import BetweenScrapes
        from ..metrics.exposition import page
        from ..metrics.families import families
        from ..metrics.server import MetricsServer

        process = ProcessCollector(registry=None)
        between = self._between = BetweenScrapes(read)

        async def render(accept: str) -> Page:
            snapshot = await read()
            between.scraped(snapshot)
            figures = {model.name: model.engine.figures() for model in models.ready}
            everything: list[Metric] = [*families(snapshot, figures), *process.collect(), *self._own_families()]
            return page(everything, accept)

        self._server = MetricsServer(render)
        with _as_metrics_listen():
            bound = _Bound()
            where = self._address.bind(bound.add_port)
            await self._server.start(bound.socket)
        structlog.get_logger().info("metrics are served", listen=where)

    async def close(self) -> None:
        """Stops serving, and sends what is not sent yet, within seconds."""
        if self._between is not None:
            self._between.stop()
        if self._server is not None:
            await self._server.close()
        if self._address is not None:
            self._address.release()
        if self._pipeline is not None:
            await self._pipeline.close(_FLUSH_S)

    def _own_families(self) -> Iterable[Metric]:
        if self._pipeline is None:
            return []
        from ..metrics.families import of_export

        return of_export(asdict(self._pipeline.sent()))


def _open_pipeline(config: Config, environ: Mapping[str, str]) -> Pipeline | None:
    if not config.otel.wanted(environ):
        return None
    try:
        from ..otel.pipeline import Pipeline
    except ImportError as error:
        if config.otel.endpoint is not None:
            raise ConfigError([Fault("otel", _NOT_INSTALLED)]) from error
        structlog.get_logger().warning("OTEL_EXPORTER_OTLP_ENDPOINT is ignored", reason=_NOT_INSTALLED)
        return None
    return Pipeline(config.otel)


def check_observability(config: Config) -> None:
    """What `Observability.open` would find wrong, without opening anything. Raises ConfigError."""
    if config.metrics_listen is not None:
        with _as_metrics_listen():
            Address(config.metrics_listen)
    if config.otel.endpoint is not None:
        try:
            from ..otel.pipeline import Pipeline  # noqa: F401
        except ImportError as error:
            raise ConfigError([Fault("otel", _NOT_INSTALLED)]) from error


class _Bound:
    """A socket that `Address` binds."""

    socket: socket.socket

    def add_port(self, listen: str) -> int:
        if listen.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            place: Any = listen.removeprefix("unix:")
        else:
            host, _, port = listen.rpartition(":")
            family, _, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
            self.socket = socket.socket(family)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind(place)
        except OSError as error:
            self.socket.close()
            raise RuntimeError(str(error)) from error
        return 0 if listen.startswith("unix:") else int(self.socket.getsockname()[1])


@contextmanager
def _as_metrics_listen() -> Iterator[None]:
    """What is wrong with the address is wrong with this setting."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([Fault("metrics_listen", fault.message) for fault in error.faults], error.subject) from error
