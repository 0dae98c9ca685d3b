"""What a collector gets of requests, and what becomes of the daemon if there is none."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator

import grpc.aio
import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs the extra `otel`")

import collector as otlp
from collector import Collector, collecting
from fakes import ScriptedSession, byte_tokenizer
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from unit.runtime.fake_engine import only_model, serving

from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import generation_pb2_grpc
from runtime.access.call_errors import CallErrors
from runtime.api.generator import Generator
from runtime.api.open_calls import OpenCalls
from runtime.api.service import GenerationService
from runtime.configuration.otel_settings import OtelSettings
from runtime.engine.engine import Engine
from runtime.engine.sequence import Request, SamplingParams
from runtime.errors import QueueFull
from runtime.models.registry import Models
from runtime.otel.context import TraceContext, enter
from runtime.otel.delivery import BoundedSpans, CountedSpans, Tally
from runtime.otel.interceptor import TraceInterceptor
from runtime.otel.pipeline import Pipeline

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
ENOUGH_S = 20.0


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    """The pipeline silences the SDK's logger; that is for a process of its own."""
    yield
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)


def make_engine(pipeline: Pipeline, *, queue_limit: int = 4) -> Engine:
    """Not started: the test steps it."""
    engine = Engine(
        ScriptedSession(slots=1),
        byte_tokenizer(),
        eos_token_ids=frozenset(),
        queue_limit=queue_limit,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
    )
    engine.observe(pipeline.observer("tiny"))
    return engine


def request(max_tokens: int = 4, *, chat: bool = True) -> Request:
    return Request((1, 2, 3), max_tokens, SamplingParams(temperature=0.5, seed=7), ignore_eos=True, chat=chat)


def run(engine: Engine) -> None:
    while not engine.idle:
        engine.step()


async def test_a_request_becomes_a_span_with_its_phases_in_the_callers_trace(collector: Collector) -> None:
    """Under the caller's span; queue, prefill and decode lie within it, one after the other."""
    pipeline = Pipeline(OtelSettings(endpoint=collector.endpoint, headers={"x-key": "secret"}))
    engine = make_engine(pipeline)
    enter(TraceContext(TRACEPARENT, "vendor=1"))
    engine.submit(request(), lambda event: None)
    run(engine)
    await asyncio.sleep(0)
    await pipeline.close(ENOUGH_S)
    received = collector.received()
    whole, *phases = sorted(otlp.spans(received), key=lambda span: span.kind != Span.SPAN_KIND_SERVER)
    assert (whole.name, whole.kind) == ("chat tiny", Span.SPAN_KIND_SERVER)
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    assert whole.trace_state == "vendor=1"
    assert [span.name for span in phases] == ["queue", "prefill", "decode"]
    assert {span.parent_span_id for span in phases} == {whole.span_id}
    edges = [whole.start_time_unix_nano, *(span.end_time_unix_nano for span in phases)]
    assert edges[-1] == whole.end_time_unix_nano
    assert [span.start_time_unix_nano for span in phases] == edges[:-1]
    assert edges == sorted(edges)
    assert collector.metadata[0]["x-key"] == "secret"
    who = otlp.resource(received)
    assert (who["service.name"], who["host.name"]) == ("edgeqwend", socket.gethostname())


async def test_a_span_says_how_long_everything_was_and_nothing_of_what_was_said(collector: Collector) -> None:
    """The attributes of the conventions, and no others."""
    pipeline = Pipeline(OtelSettings(endpoint=collector.endpoint))
    engine = make_engine(pipeline)
    engine.submit(request(), lambda event: None)
    run(engine)
    await asyncio.sleep(0)
    await pipeline.close(ENOUGH_S)
    [whole] = [span for span in otlp.spans(collector.received()) if span.kind == Span.SPAN_KIND_SERVER]
    assert otlp.attributes(whole.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "edgeqwen",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.id": "r1",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.top_k": 0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.seed": 7,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 0,
    }
    assert whole.status.code == Status.STATUS_CODE_UNSET


async def test_metrics_are_those_of_the_conventions(collector: Collector) -> None:
    """Names, units, bounds and attributes; what did not finish is in the durations, with its error."""
    pipeline = Pipeline(OtelSettings(endpoint=collector.endpoint))
    engine = make_engine(pipeline, queue_limit=1)
    engine.submit(request(chat=False), lambda event: None)
    dropped = engine.submit(request(chat=False), lambda event: None)
    with pytest.raises(QueueFull):
        engine.submit(request(chat=False), lambda event: None)
    engine.cancel(dropped)
    run(engine)
    await asyncio.sleep(0)
    await pipeline.close(ENOUGH_S)
    found = otlp.metrics(collector.received())
    ours = {name: its for name, its in found.items() if name.startswith("gen_ai.")}
    assert {name: its.unit for name, its in ours.items()} == {
        "gen_ai.server.request.duration": "s",
        "gen_ai.server.time_to_first_token": "s",
        "gen_ai.server.time_per_output_token": "s",
        "gen_ai.client.token.usage": "{token}",
    }
    first_token = ours["gen_ai.server.time_to_first_token"].histogram.data_points[0]
    assert list(first_token.explicit_bounds)[:3] == [0.001, 0.005, 0.01]
    common = {"gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "edgeqwen"}
    common |= {"gen_ai.request.model": "tiny", "gen_ai.response.model": "tiny"}
    assert otlp.attributes(first_token.attributes) == common
    points = ours["gen_ai.server.request.duration"].histogram.data_points
    assert {otlp.attributes(point.attributes).get("error.type"): point.count for point in points} == {
        None: 1,
        "cancelled": 1,
        "queue_full": 1,
    }
    tokens = ours["gen_ai.client.token.usage"].histogram.data_points
    assert {otlp.attributes(point.attributes)["gen_ai.token.type"]: point.sum for point in tokens} == {
        "input": 3,
        "output": 4,
    }


async def test_errors_of_calls_are_counted_with_the_attributes_of_rpc(collector: Collector) -> None:
    """What never came to an engine is in no other metric."""
    pipeline, errors = Pipeline(OtelSettings(endpoint=collector.endpoint)), CallErrors()
    pipeline.observe_errors(errors)
    for _ in range(3):
        errors.add("/edgeqwen.v1.Generation/Generate", "UNAUTHENTICATED")
    await pipeline.close(ENOUGH_S)
    counted = otlp.metrics(collector.received())["edgeqwen.call.errors"]
    [point] = counted.sum.data_points
    assert (point.as_int, counted.sum.is_monotonic, counted.unit) == (3, True, "{error}")
    assert otlp.attributes(point.attributes) == {
        "rpc.method": "edgeqwen.v1.Generation/Generate",
        "rpc.response.status_code": "UNAUTHENTICATED",
    }


async def test_what_did_not_finish_is_an_error(collector: Collector) -> None:
    """A request that is cancelled in the queue has no other phase; one that fails says so; so does one refused."""
    pipeline = Pipeline(OtelSettings(endpoint=collector.endpoint))
    engine = make_engine(pipeline, queue_limit=1)
    engine.submit(request(), lambda event: None)
    waiting = engine.submit(request(), lambda event: None)
    with pytest.raises(QueueFull):
        engine.submit(request(), lambda event: None)
    engine.cancel(waiting)
    engine.step()
    engine.stop()
    await asyncio.sleep(0)
    await pipeline.close(ENOUGH_S)
    found = otlp.spans(collector.received())
    ends = {
        otlp.attributes(span.attributes)["error.type"]: span for span in found if span.kind == Span.SPAN_KIND_SERVER
    }
    assert set(ends) == {"cancelled", "failed", "queue_full"}
    assert {span.status.code for span in ends.values()} == {Status.STATUS_CODE_ERROR}
    phases = [span.name for span in found if span.parent_span_id == ends["cancelled"].span_id]
    assert phases == ["queue"]


@pytest.mark.parametrize(("flags", "ratio", "kept"), [("00", 1.0, False), ("01", 0.0, True)])
async def test_the_caller_decides_whether_its_trace_is_kept(
    collector: Collector, flags: str, ratio: float, kept: bool
) -> None:
    """The ratio is for traces that begin here."""
    pipeline = Pipeline(OtelSettings(endpoint=collector.endpoint, sample_ratio=ratio))
    engine = make_engine(pipeline)
    enter(TraceContext(f"00-{TRACE}-{PARENT}-{flags}"))
    engine.submit(request(), lambda event: None)
    run(engine)
    await asyncio.sleep(0)
    await pipeline.close(ENOUGH_S)
    assert bool(otlp.spans(collector.received())) == kept


@pytest.mark.parametrize(
    "header", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "x" * 10_000, f"ff-{TRACE}-{PARENT}-01"]
)
async def test_a_header_that_is_none_begins_a_trace_of_its_own(collector: Collector, header: str) -> None:
    """Whatever somebody sends, his request is traced."""
    pipeline = Pipeline(OtelSettings(endpoint=collector.endpoint))
    engine = make_engine(pipeline)
    enter(TraceContext(header, "=,="))
    engine.submit(request(), lambda event: None)
    run(engine)
    await asyncio.sleep(0)
    await pipeline.close(ENOUGH_S)
    [whole] = [span for span in otlp.spans(collector.received()) if span.kind == Span.SPAN_KIND_SERVER]
    assert whole.parent_span_id == b""
    assert whole.trace_id.hex() != TRACE


async def test_a_collector_that_is_not_there_costs_nothing_but_spans(unused_endpoint: str) -> None:
    """Requests end as ever, and leaving takes no longer than it may; what was lost is counted."""
    pipeline = Pipeline(OtelSettings(endpoint=unused_endpoint))
    engine = make_engine(pipeline)
    events: list[object] = []
    engine.submit(request(), events.append)
    run(engine)
    await asyncio.sleep(0)
    await pipeline.close(0.2)
    assert len(events) == 5
    assert pipeline.sent().spans_exported == 0


async def test_what_waits_is_bounded_and_what_is_dropped_is_counted(unused_endpoint: str) -> None:
    """Memory does not grow while a collector is away: no span more than the bound is kept."""
    tally = Tally()
    exporter = CountedSpans(tally, endpoint=unused_endpoint, insecure=True, timeout=0.01)
    bounded = BoundedSpans(exporter, tally, max_waiting=3)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(bounded)
    tracer = provider.get_tracer("test")
    for _ in range(10):
        tracer.start_span("x").end()
    assert tally.read().spans_dropped == 7
    provider.shutdown()
    sent = tally.read()
    assert (sent.spans_failed, sent.spans_dropped, sent.spans_exported) == (3, 7, 0)


@pytest.fixture
def unused_endpoint() -> Iterator[str]:
    """Where nobody listens, and nobody will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_a_trace_goes_on_from_grpc_metadata(collector: Collector) -> None:
    """Each call has its own; one without is in no trace of another's."""
    pipeline = Pipeline(OtelSettings(endpoint=collector.endpoint))
    engine = make_engine(pipeline)
    models: Models = only_model(engine)

    def add(server: grpc.aio.Server) -> None:
        service = GenerationService(models, Generator(models), OpenCalls())
        generation_pb2_grpc.add_GenerationServicer_to_server(service, server)

    async with serving(add, interceptors=[TraceInterceptor()]) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        message = pb.GenerateRequest(prompt="abc", max_tokens=2, ignore_eos=True)
        for metadata in ((("traceparent", TRACEPARENT),), ()):
            async for _ in stub.Generate(message, metadata=metadata):
                pass
    await models.close()
    await pipeline.close(ENOUGH_S)
    roots = [span for span in otlp.spans(collector.received()) if span.kind == Span.SPAN_KIND_SERVER]
    assert [span.parent_span_id.hex() for span in roots] == [PARENT, ""]


@pytest.mark.parametrize(
    ("settings", "environment", "wanted"),
    [
        (OtelSettings(), {}, False),
        (OtelSettings(endpoint="http://localhost:4317"), {}, True),
        (OtelSettings(endpoint="http://localhost:4317"), {"OTEL_SDK_DISABLED": "true"}, False),
        (OtelSettings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, True),
        (OtelSettings(), {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, True),
        (OtelSettings(), {"OTEL_SERVICE_NAME": "x"}, False),
    ],
)
def test_it_is_on_where_a_collector_is_named(settings: OtelSettings, environment: dict[str, str], wanted: bool) -> None:
    """By us or by the standard's variables."""
    assert settings.wanted(environment) is wanted
