"""Sends to a collector by OTLP, and counts what came of it. What waits is bounded: a collector that is away costs
spans, never memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

MAX_WAITING_SPANS = 2048
_BATCH_SPANS = 512


@dataclass(frozen=True)
class Sent:
    """Totals since the start: spans by what became of them, and exports of all metrics."""

    spans_exported: int = 0
    spans_failed: int = 0
    spans_dropped: int = 0
    metrics_exported: int = 0
    metrics_failed: int = 0


class Tally:
    """Counts, and says in the log when sending begins to fail and when it works again. For any thread."""

    def __init__(self) -> None:
        self._sent = Sent()
        self._failing = False
        self._lock = threading.Lock()

    def read(self) -> Sent:
        with self._lock:
            return self._sent

    def add(self, **counts: int) -> None:
        with self._lock:
            self._sent = replace(self._sent, **{name: getattr(self._sent, name) + n for name, n in counts.items()})

    def tried(self, *, worked: bool) -> None:
        with self._lock:
            changed, self._failing = self._failing == worked, not worked
        if changed and worked:
            structlog.get_logger().info("OpenTelemetry's collector is back")
        elif changed:
            structlog.get_logger().warning("OpenTelemetry's collector cannot be reached", **self._lost())

    def _lost(self) -> dict[str, int]:
        sent = self.read()
        return {"spans_failed": sent.spans_failed, "spans_dropped": sent.spans_dropped}


class CountedSpans(OTLPSpanExporter):
    """Exports spans."""

    def __init__(self, tally: Tally, **where: Any) -> None:
        super().__init__(**where)
        self._tally = tally

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        worked = result is SpanExportResult.SUCCESS
        self._tally.add(**{"spans_exported" if worked else "spans_failed": len(spans)})
        self._tally.tried(worked=worked)
        return result


class CountedMetrics(OTLPMetricExporter):
    """Exports metrics."""

    def __init__(self, tally: Tally, **where: Any) -> None:
        super().__init__(**where)
        self._tally = tally

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        worked = result is MetricExportResult.SUCCESS
        self._tally.add(**{"metrics_exported" if worked else "metrics_failed": 1})
        self._tally.tried(worked=worked)
        return result


class BoundedSpans(SpanProcessor):
    """Hands spans to a batch processor for as long as few of them wait, and counts the others."""

    def __init__(self, exporter: CountedSpans, tally: Tally, max_waiting: int = MAX_WAITING_SPANS) -> None:
        self._batches = BatchSpanProcessor(
            exporter, max_queue_size=max_waiting, max_export_batch_size=min(_BATCH_SPANS, max_waiting)
        )
        self._tally = tally
        self._max_waiting = max_waiting
        self._taken = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        sent = self._tally.read()
        if self._taken - sent.spans_exported - sent.spans_failed >= self._max_waiting:
            self._tally.add(spans_dropped=1)
            return
        self._taken += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._batches.force_flush(timeout_millis)
