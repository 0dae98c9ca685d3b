"""A collector of OpenTelemetry: OTLP over gRPC, as the specification's own messages have it."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TIMEOUT_S = 20


@dataclass
class Collector:
    """What has come so far."""

    endpoint: str = ""
    requests: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    metadata: list[dict[str, str]] = field(default_factory=list)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - of both services
        self.metadata.append(dict(context.invocation_metadata()))
        self.requests.put(request)
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            return trace_service_pb2.ExportTraceServiceResponse()
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def received(self) -> list[Any]:
        """Every request, of which there is at least one, and none that were read before."""
        requests = [self.requests.get(timeout=TIMEOUT_S)]
        while not self.requests.empty():
            requests.append(self.requests.get())
        return requests


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on loopback."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def spans(requests: list[Any]) -> list[Span]:
    """Of all exports of traces among them, in the order of their start."""
    found = [
        span
        for request in requests
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    return sorted(found, key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))


def metrics(requests: list[Any]) -> dict[str, Metric]:
    """The last export of each metric among them, by name."""
    return {
        metric.name: metric
        for request in requests
        if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def resource(requests: list[Any]) -> dict[str, Any]:
    """Who sent the first of them."""
    first = requests[0]
    parts = getattr(first, "resource_spans", None) or first.resource_metrics
    return attributes(parts[0].resource.attributes)


def attributes(pairs: Any) -> dict[str, Any]:
    """As a mapping."""
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    kind = pair.value.WhichOneof("value")
    if kind == "array_value":
        return [each.string_value for each in pair.value.array_value.values]
    return getattr(pair.value, kind) if kind else None
