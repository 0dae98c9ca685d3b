"""What is told to Prometheus: a snapshot and the histograms of requests, as metric families.

Names and units are those of https://prometheus.io/docs/practices/naming/: seconds, bytes, joules, degrees Celsius,
shares from 0 to 1, and totals since the start. A label never holds what a request says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import InfoMetricFamily

from edgeqwen.v1 import telemetry_pb2 as pb

from ..engine.histogram import Distribution
from ..engine.request_meter import RequestFigures
from .building import counter, gauge, histogram
from .machine_families import of_energy, of_machine

# By name: where the value is in EngineInfo, and what it is.
_ENGINE_GAUGES: dict[str, tuple[str, str]] = {
    "edgeqwen_requests_waiting": ("queue_depth", "Requests that wait for a slot."),
    "edgeqwen_requests_waiting_limit": ("queue_limit", "Requests that may wait; more are refused."),
    "edgeqwen_requests_running": ("running", "Requests in prefill or decode."),
    "edgeqwen_slots": ("slots", "Requests that can run at once."),
    "edgeqwen_kv_budget_tokens": ("kv_budget_tokens", "Tokens that the KV cache may hold."),
    "edgeqwen_kv_token_bytes": ("kv_bytes_per_token", "Memory of one token in the KV cache."),
    "edgeqwen_failures_in_a_row": ("failures_in_a_row", "Steps that failed since the last that worked."),
    "edgeqwen_draining": ("draining", "Whether new requests are refused: the model or the daemon leaves."),
}
_ENGINE_COUNTERS: dict[str, tuple[str, str]] = {
    "edgeqwen_requests_total": ("requests_total", "Requests that were taken."),
    "edgeqwen_prompt_tokens_total": ("prompt_tokens_total", "Prompt tokens that were computed."),
    "edgeqwen_cached_prompt_tokens_total": ("cached_prompt_tokens_total", "Prompt tokens whose KV was there already."),
    "edgeqwen_completion_tokens_total": ("completion_tokens_total", "Tokens that were generated."),
    "edgeqwen_guessed_tokens_total": ("guessed_tokens_total", "Tokens that were guessed and computed."),
    "edgeqwen_right_guesses_total": ("right_guesses_total", "Guessed tokens that were right."),
    "edgeqwen_steps_total": ("steps_total", "Steps of the engine."),
}
_THROTTLE: dict[str, tuple[str, str]] = {
    "edgeqwen_governor_level": ("level", "How far heat or saving power has lowered the engine; 0 is not at all."),
    "edgeqwen_governor_rows": ("rows", "Requests that may run at once, as the engine is lowered."),
    "edgeqwen_governor_share_ratio": ("share", "Share of the time in which the engine may compute."),
}
_CLIENT_GAUGES: dict[str, tuple[str, str]] = {
    "edgeqwen_client_requests_waiting": ("waiting", "Requests of a client that wait."),
    "edgeqwen_client_requests_running": ("running", "Requests of a client that run."),
}
_CLIENT_COUNTERS: dict[str, tuple[str, str]] = {
    "edgeqwen_client_requests_total": ("requests_total", "Requests of a client that were taken."),
    "edgeqwen_client_requests_refused_total": ("refused_total", "Requests of a client that were not, or had to go."),
    "edgeqwen_client_prompt_tokens_total": ("prompt_tokens_total", "Prompt tokens that were computed for a client."),
    "edgeqwen_client_completion_tokens_total": ("completion_tokens_total", "Tokens of answers to a client."),
}
_KV_STATES = ("used", "reserved", "warm")
_MODEL_LABELS = (
    "package_version",
    "variant",
    "precision",
    "provider",
    "provider_requested",
    "build_digest",
    "threads_from",
    "slots_from",
)

_HISTOGRAMS: dict[str, tuple[Callable[[RequestFigures], Distribution], str]] = {
    "edgeqwen_queue_time_seconds": (lambda its: its.queue, "From a request's arrival to the start of its prefill."),
    "edgeqwen_time_to_first_token_seconds": (
        lambda its: its.first_token,
        "From a request's arrival to its first token.",
    ),
    "edgeqwen_time_per_output_token_seconds": (
        lambda its: its.per_token,
        "Of requests that finished: from the first token to the last, for each token after the first.",
    ),
    "edgeqwen_token_gap_seconds": (lambda its: its.gap, "Between two steps that gave a request tokens."),
    "edgeqwen_request_prompt_tokens": (lambda its: its.prompt_tokens, "Prompt tokens of requests that finished."),
    "edgeqwen_request_completion_tokens": (
        lambda its: its.completion_tokens,
        "Generated tokens of requests that finished.",
    ),
}


def families(snapshot: pb.Snapshot, figures: Mapping[str, RequestFigures]) -> Iterator[Metric]:
    """Everything; `figures` by model."""
    ready_s = snapshot.time_unix_ms / 1e3 - snapshot.uptime_s
    yield InfoMetricFamily("edgeqwen_daemon", "Which daemon runs.", {"version": snapshot.daemon_version})
    yield gauge("edgeqwen_ready_timestamp_seconds", "When the daemon was ready.", (), [((), ready_s)])
    yield from _of_models(snapshot.models)
    yield from _of_store(snapshot)
    yield from _of_engines(snapshot)
    yield from _of_requests(figures)
    yield from _of_throttles(snapshot.models)
    yield from _of_clients(snapshot.clients)
    yield from _of_call_errors(snapshot.call_errors)
    yield from of_machine(snapshot.machine)
    yield from of_energy(snapshot)


def of_export(sent: Mapping[str, int]) -> Iterator[Metric]:
    """What became of spans and metrics on their way to OpenTelemetry's collector: `spans_exported` and the like."""
    for what, name, said in (
        ("spans", "edgeqwen_otel_spans_total", "Spans that were sent, could not be sent, or were dropped unsent."),
        ("metrics", "edgeqwen_otel_metric_exports_total", "Exports of all metrics to OpenTelemetry's collector."),
    ):
        rows = [((key.removeprefix(f"{what}_"),), count) for key, count in sent.items() if key.startswith(what)]
        yield counter(name, said, ("result",), rows)


def _of_models(loaded: Sequence[pb.LoadedModel]) -> Iterator[Metric]:
    info = InfoMetricFamily("edgeqwen_model", "A loaded model, and what runs it.", labels=["model"])
    for each in loaded:
        info.add_metric([each.model.name], {name: getattr(each.model, name) for name in _MODEL_LABELS})
    yield info
    for name, field, said in (
        ("edgeqwen_model_weights_bytes", "weights_bytes", "Size of a model's weights."),
        ("edgeqwen_model_context_tokens", "context_tokens", "Tokens of a prompt and its answer together."),
    ):
        yield gauge(name, said, ("model",), [((its.model.name,), getattr(its.model, field)) for its in loaded])
    threads = [
        ((its.model.name, phase), getattr(its.model, f"{phase}_threads"))
        for its in loaded
        for phase in ("prefill", "decode")
    ]
    yield gauge("edgeqwen_model_threads", "Threads of a run, by what it computes.", ("model", "phase"), threads)


def _of_store(snapshot: pb.Snapshot) -> Iterator[Metric]:
    """The package that serves from a store; without one there is no sample."""
    info = InfoMetricFamily("edgeqwen_package", "The package that serves from the store.", labels=["name"])
    rollbacks = []
    if snapshot.HasField("served"):
        its = snapshot.served
        variant = next((each.model.variant for each in snapshot.models if each.model.name == its.model), "")
        facts = {"version": its.version, "variant": variant, "slot": its.slot, "trial": str(its.trial).lower()}
        info.add_metric([its.model], facts)
        rollbacks.append(((), its.rollbacks_total))
    yield info
    said = "Packages that were given up for what served before them, as far as the store's history goes back."
    yield counter("edgeqwen_rollbacks_total", said, (), rollbacks)


def _of_engines(snapshot: pb.Snapshot) -> Iterator[Metric]:
    loaded = snapshot.models
    for make, table in ((gauge, _ENGINE_GAUGES), (counter, _ENGINE_COUNTERS)):
        for name, (field, said) in table.items():
            yield make(name, said, ("model",), [((its.model.name,), getattr(its.engine, field)) for its in loaded])
    tokens = [
        ((its.model.name, state), getattr(its.engine, f"kv_{state}_tokens")) for its in loaded for state in _KV_STATES
    ]
    said = "Tokens in the KV cache: written by running requests, promised to them, and left by earlier ones."
    yield gauge("edgeqwen_kv_tokens", said, ("model", "state"), tokens)
    steps = [
        ((its.model.name,), (snapshot.time_unix_ms - its.engine.last_step_age_ms) / 1e3)
        for its in loaded
        if its.engine.HasField("last_step_age_ms")
    ]
    yield gauge("edgeqwen_last_step_timestamp_seconds", "When the engine's last step ended.", ("model",), steps)


def _of_requests(figures: Mapping[str, RequestFigures]) -> Iterator[Metric]:
    for name, (get, said) in _HISTOGRAMS.items():
        yield histogram(name, said, ("model",), (((model,), get(its)) for model, its in figures.items()))
    durations = (
        ((model, outcome), duration) for model, its in figures.items() for outcome, duration in its.durations.items()
    )
    said = "From a request's arrival to its end, by how it ended."
    yield histogram("edgeqwen_request_duration_seconds", said, ("model", "outcome"), durations)
    refused = [((model, reason), count) for model, its in figures.items() for reason, count in its.refused.items()]
    said = "Requests that were not taken, by reason."
    yield counter("edgeqwen_requests_refused_total", said, ("model", "reason"), refused)


def _of_throttles(loaded: Sequence[pb.LoadedModel]) -> Iterator[Metric]:
    governed = [its for its in loaded if its.engine.HasField("throttle")]
    for name, (field, said) in _THROTTLE.items():
        rows = [((its.model.name,), getattr(its.engine.throttle, field)) for its in governed]
        yield gauge(name, said, ("model",), rows)


def _of_clients(clients: Sequence[pb.ClientInfo]) -> Iterator[Metric]:
    """Their number is bounded: the telemetry sums up those that come late."""
    for make, table in ((gauge, _CLIENT_GAUGES), (counter, _CLIENT_COUNTERS)):
        for name, (field, said) in table.items():
            yield make(name, said, ("client",), [((client.name,), getattr(client, field)) for client in clients])


def _of_call_errors(errors: Sequence[pb.CallErrors]) -> Iterator[Metric]:
    """Their number is bounded: by the methods that the daemon has, and gRPC's statuses."""
    said = "Calls, and requests of batches and streams, that got an error, by gRPC status."
    rows = [((its.method, its.code), its.total) for its in errors]
    yield counter("edgeqwen_call_errors_total", said, ("method", "code"), rows)
