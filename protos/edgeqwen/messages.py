"""What goes over the wire, as Python types; and what comes back, as such."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import ClientError, DeadlineExceeded, ServerUnavailable
from .v1 import generation_pb2 as pb


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema of type object; None: it takes none."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] | str | None = None


@dataclass(frozen=True)
class ToolCall:
    """The model wants `name` to be called with `arguments`, a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation: of the "system", "user", "assistant" or a "tool".

    `Completion.turn` is an answer as one; `Turn("tool", result, tool_call_id=call.id)` is what a call returned.
    """

    role: str
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


Message = tuple[str, str] | Turn
"""A turn of a conversation, or no more of it than its role and its content."""


@dataclass(frozen=True)
class Options:
    """How to generate. What is None takes the daemon's default, which is the model's own recommendation.

    See GenerateRequest in generation.proto for ranges.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    json_schema: Mapping[str, object] | str | None = None
    """What the answer must look like; at most one of the three."""
    regex: str | None = None
    grammar: str | None = None
    model: str | None = None
    """Which of the loaded models answers; None is the default one. In a batch, the same for all."""
    adapter: str | None = None
    """The adapter to run the model with; None is the model as it is."""
    deterministic: bool | None = None
    """The same tokens whatever else the daemon does."""
    n: int | None = None
    """How many answers; more than one only with `samples`."""
    thinking: Literal["auto", "on", "off"] = "auto"
    """From here on, only for a conversation."""
    thinking_budget_tokens: int | None = None
    tools: tuple[Tool, ...] = ()
    require_tool_call: bool = False
    preset: str = ""
    """One of the package's: `Client.snapshot().model.presets` lists them."""
    preset_values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """One request of a batch: exactly one of `messages`, `prompt` and `token_ids`."""

    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    token_ids: tuple[int, ...] | None = None
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Started:
    """The daemon has accepted the request."""

    request_id: str
    model: str
    prompt_tokens: int


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of a token and, best first, of the likeliest ones: before bias, penalties and temperature."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Delta:
    """More of the answer `index`. With `Options.top_logprobs`, `logprobs` has one for each token."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    index: int = 0


@dataclass(frozen=True)
class Finished:
    """The answer `index` has ended. `reason` is "eos", "stop", "length" or "tool_calls".

    `stop` is the stop string that was found.

    `cached_prompt_tokens` of the prompt did not have to be computed: an earlier request of this scope had them.
    """

    reason: str
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    time_to_first_token_ms: float
    total_ms: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    stop: str | None = None
    index: int = 0


Event = Started | Delta | Finished


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    finished: Finished
    logprobs: tuple[TokenLogprobs, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def turn(self) -> Turn:
        """The answer as a turn of the conversation, to go on from."""
        return Turn("assistant", self.text, self.reasoning, self.tool_calls)


def event_of(response: pb.GenerateResponse) -> Event | None:
    """None for a kind of event that only newer clients know."""
    kind = response.WhichOneof("event")
    if kind is None:
        return None
    if kind == "delta":
        return _delta_of(response.delta)
    if kind == "finished":
        return _finished_of(response.finished)
    started = response.started
    return Started(started.request_id, started.model, started.prompt_tokens)


def completions_of(events: Iterable[Event]) -> list[Completion]:
    """Whole answers from their events, by index."""
    deltas: dict[int, list[Delta]] = {}
    ends: dict[int, Finished] = {}
    for event in events:  # to the end, so that the call ends as the daemon ends it
        if isinstance(event, Delta):
            deltas.setdefault(event.index, []).append(event)
        elif isinstance(event, Finished):
            ends[event.index] = event
    if not ends or deltas.keys() - ends.keys():
        raise ClientError("the stream ended without a result")
    return [_completion(deltas.get(index, []), end) for index, end in sorted(ends.items())]


def result_of(response: pb.GenerateBatchResponse) -> Completion | ClientError:
    """One result of a batch: a failure is an error that is not raised."""
    if response.HasField("completion"):
        whole = response.completion
        return _completion([_delta_of(whole.delta)], _finished_of(whole.finished))
    failure = response.failure
    kind = _KINDS.get(failure.code, ClientError)
    return kind(failure.message)


_KINDS: dict[int, type[ClientError]] = {4: DeadlineExceeded, 14: ServerUnavailable}  # by google.rpc.Code


def _completion(deltas: list[Delta], end: Finished) -> Completion:
    return Completion(
        "".join(each.text for each in deltas),
        tuple(token for each in deltas for token in each.token_ids),
        end,
        tuple(logprobs for each in deltas for logprobs in each.logprobs),
        "".join(each.reasoning for each in deltas),
        tuple(call for each in deltas for call in each.tool_calls),
    )


def _delta_of(delta: pb.Delta) -> Delta:
    return Delta(
        delta.text,
        tuple(delta.token_ids),
        tuple(map(_logprobs_of, delta.logprobs)),
        delta.reasoning,
        tuple(ToolCall(call.id, call.name, call.arguments) for call in delta.tool_calls),
        delta.index,
    )


def _finished_of(end: pb.Finished) -> Finished:
    return Finished(
        reason=pb.Finished.Reason.Name(end.reason).removeprefix("REASON_").lower(),
        prompt_tokens=end.usage.prompt_tokens,
        cached_prompt_tokens=end.usage.cached_prompt_tokens,
        completion_tokens=end.usage.completion_tokens,
        queue_ms=end.timings.queue_ms,
        time_to_first_token_ms=end.timings.time_to_first_token_ms,
        total_ms=end.timings.total_ms,
        prefill_tokens_per_second=end.timings.prefill_tokens_per_second,
        decode_tokens_per_second=end.timings.decode_tokens_per_second,
        stop=end.stop if end.HasField("stop") else None,
        index=end.index,
    )


def _logprobs_of(logprobs: pb.TokenLogprobs) -> TokenLogprobs:
    return TokenLogprobs(logprobs.logprob, tuple((each.token_id, each.logprob) for each in logprobs.top))
