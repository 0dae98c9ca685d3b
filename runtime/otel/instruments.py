"""The instruments and attributes of OpenTelemetry's conventions for generative AI, as far as a server has them.

https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-metrics.md and gen-ai-spans.md; names,
units and bounds of the buckets are theirs.
"""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.util.types import AttributeValue

from ..access.call_errors import CallErrors
from ..engine.observer import Ended
from ..engine.sequence import Request

PROVIDER = "edgeqwen"

_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_DURATION_S = tuple(0.01 * 2**power for power in range(14))
_TOKENS = tuple(4**power for power in range(14))

Attributes = dict[str, AttributeValue]


class Instruments:
    """Records what requests took, each of one model."""

    def __init__(self, meter: Meter) -> None:
        self._duration = meter.create_histogram(
            "gen_ai.server.request.duration",
            "s",
            "From a request's arrival to its last token, or to its end without one.",
            explicit_bucket_boundaries_advisory=_DURATION_S,
        )
        self._first_token = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "From a request's arrival to its first token, of requests that finished.",
            explicit_bucket_boundaries_advisory=_FIRST_TOKEN_S,
        )
        self._per_token = meter.create_histogram(
            "gen_ai.server.time_per_output_token",
            "s",
            "For each token after the first, of requests that finished.",
            explicit_bucket_boundaries_advisory=_PER_TOKEN_S,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of prompts and of answers.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )

    def ended(self, ended: Ended, attributes: Attributes) -> None:
        """Records a request; `attributes` are those of `request_attributes`."""
        error: Attributes = {} if ended.outcome == "finished" else {"error.type": ended.outcome}
        self._duration.record(ended.duration_s, {**attributes, **error})
        if ended.first_token_s is None:
            return
        sequence = ended.sequence
        self._tokens.record(sequence.prompt_tokens, {**attributes, "gen_ai.token.type": "input"})
        self._tokens.record(len(sequence.output), {**attributes, "gen_ai.token.type": "output"})
        if ended.outcome == "finished":
            self._first_token.record(ended.first_token_s - ended.arrived_s, attributes)
            if ended.per_token_s is not None:
                self._per_token.record(ended.per_token_s, attributes)

    def refused(self, attributes: Attributes) -> None:
        """Records a request that was not taken; `attributes` have its `error.type`."""
        self._duration.record(0.0, attributes)


def observe_errors(meter: Meter, errors: CallErrors) -> None:
    """Exports `errors`, with the attributes of the conventions for RPC, which have no metric that only counts."""

    def read(_: CallbackOptions) -> Iterator[Observation]:
        for (method, code), total in errors.totals().items():
            yield Observation(total, {"rpc.method": method.removeprefix("/"), "rpc.response.status_code": code})

    meter.create_observable_counter("edgeqwen.call.errors", [read], "{error}", "Calls that got an error.")


def operation(request: Request) -> str:
    """What the conventions call it."""
    return "chat" if request.chat else "text_completion"


def request_attributes(model: str, request: Request) -> Attributes:
    """What metrics and spans of a request have in common."""
    return {
        "gen_ai.operation.name": operation(request),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
    }


def span_attributes(ended: Ended) -> Attributes:
    """What a span tells of a request beside: how it was to be answered and how long it was, never what it says."""
    request, sampling = ended.sequence.request, ended.sequence.request.sampling
    attributes: Attributes = {
        "gen_ai.response.id": f"r{ended.sequence.id}",
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.usage.input_tokens": ended.sequence.prompt_tokens,
        "gen_ai.usage.output_tokens": len(ended.sequence.output),
        "gen_ai.usage.cache_read.input_tokens": ended.sequence.cached,
    }
    if sampling.seed is not None:
        attributes["gen_ai.request.seed"] = sampling.seed
    if ended.reason is not None:
        attributes["gen_ai.response.finish_reasons"] = (ended.reason.name.lower(),)
    if ended.outcome != "finished":
        attributes["error.type"] = ended.outcome
    return attributes
