"""From what engines tell to what a collector gets: the providers of OpenTelemetry's SDK, of this daemon alone."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from contextlib import suppress
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import structlog
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from ..access.call_errors import CallErrors
from ..configuration.otel_settings import OtelSettings
from ..engine.observer import Observer
from .delivery import BoundedSpans, CountedMetrics, CountedSpans, Sent, Tally
from .instruments import Instruments, observe_errors
from .recorder import RequestRecorder

_SCOPE = "edgeqwen"


class Pipeline:
    """Sends from now on until `close`. Made in the event loop.

    The SDK has two threads for it, one for traces and one for metrics, which sleep between exports. OTEL_* variables
    decide on what `settings` does not: intervals, compression, certificates, and OTEL_TRACES_EXPORTER and
    OTEL_METRICS_EXPORTER, of which `none` switches one off.
    """

    def __init__(self, settings: OtelSettings) -> None:
        logging.getLogger("opentelemetry").setLevel(
            logging.CRITICAL
        )  # it would repeat each failure; Tally says it once
        self._tally = Tally()
        self._loop = asyncio.get_running_loop()
        resource = _resource()
        where = _where(settings)
        self._exporters: list[CountedSpans | CountedMetrics] = []
        sampler = None if settings.sample_ratio is None else ParentBasedTraceIdRatio(settings.sample_ratio)
        self._traces = TracerProvider(sampler, resource, shutdown_on_exit=False)
        if _sends("OTEL_TRACES_EXPORTER"):
            self._exporters.append(spans := CountedSpans(self._tally, **where))
            self._traces.add_span_processor(BoundedSpans(spans, self._tally))
        readers = []
        if _sends("OTEL_METRICS_EXPORTER"):
            self._exporters.append(metrics := CountedMetrics(self._tally, **where))
            readers.append(PeriodicExportingMetricReader(metrics))
        self._metrics = MeterProvider(readers, resource, shutdown_on_exit=False)
        self._meter = self._metrics.get_meter(_SCOPE, version("edgeqwen"))
        self._instruments = Instruments(self._meter)
        self._tracer = self._traces.get_tracer(_SCOPE, version("edgeqwen"))

    def observer(self, model: str) -> Observer:
        """Hears of the requests of one model."""
        return RequestRecorder(model, self._instruments, self._tracer, self._loop)

    def observe_errors(self, errors: CallErrors) -> None:
        """Exports what callers get, too."""
        observe_errors(self._meter, errors)

    def sent(self) -> Sent:
        """What became of it so far."""
        return self._tally.read()

    async def close(self, timeout_s: float) -> None:
        """Sends what is left. After `timeout_s` it is given up, and the log says so."""
        done = asyncio.Event()

        def shut_down() -> None:
            with suppress(Exception):  # of exports that fail; the tally has them
                self._traces.shutdown()
            with suppress(Exception):
                self._metrics.shutdown(timeout_s * 1e3)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(done.set)

        # Not in the loop's pool: that would be waited for, however long a collector takes to answer.
        threading.Thread(target=shut_down, name="otel-shutdown", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), timeout_s)
        except TimeoutError:
            structlog.get_logger().warning("some traces and metrics were not sent: the collector does not answer")
            for exporter in self._exporters:
                exporter.shutdown()


def _where(settings: OtelSettings) -> dict[str, Any]:
    """Of the exporters; what is None they take from the environment."""
    if settings.endpoint is None:
        return {"headers": settings.headers or None}
    return {
        "endpoint": settings.endpoint,
        "insecure": urlsplit(settings.endpoint).scheme == "http",
        "headers": settings.headers or None,
    }


def _resource() -> Resource:
    """This daemon on this board; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say more, or otherwise."""
    ours = {
        "service.name": "edgeqwend",
        "service.version": version("edgeqwen"),
        "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        "host.name": socket.gethostname(),
    }
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})


def _sends(variable: str) -> bool:
    return "otlp" in os.environ.get(variable, "otlp")
