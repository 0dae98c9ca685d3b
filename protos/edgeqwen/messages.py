"""What goes over the wire, as Python types: requests to the daemon, and events back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .errors import ClientError, InvalidRequest, Violation
from .v1 import generation_pb2 as pb

Message = tuple[str, str]
"""A turn of a conversation: its role ("system", "user" or "assistant") and its content."""


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
    """More of the answer. With `Options.top_logprobs`, `logprobs` has one for each token."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The answer has ended. `reason` is "eos", "stop" or "length"; `stop` is the stop string that was found.

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


Event = Started | Delta | Finished


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    finished: Finished
    logprobs: tuple[TokenLogprobs, ...] = ()


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
    adapter: str | None = None
    """The adapter to run the model with; None is the model as it is."""


def build_request(
    *,
    messages: Iterable[Message] | None = None,
    prompt: str | None = None,
    token_ids: Sequence[int] | None = None,
    options: Options | None = None,
    scope: bytes = b"",
) -> pb.GenerateRequest:
    """A GenerateRequest of exactly one of `messages`, `prompt` and `token_ids`. Raises ValueError otherwise.

    Raises InvalidRequest for what the contract's types cannot hold; whether the rest makes sense, the daemon says.
    """
    if sum(given is not None for given in (messages, prompt, token_ids)) != 1:
        raise ValueError("give exactly one of messages, prompt and token_ids")
    options = options or Options()
    structure = _structure(options)
    if len(structure) > 1:
        raise ValueError("give at most one of json_schema, regex and grammar")
    turns = None if messages is None else list(messages)
    _require_sendable(turns or (), prompt or "", token_ids or (), options)
    request = pb.GenerateRequest(
        stop=options.stop,
        ignore_eos=options.ignore_eos,
        top_logprobs=options.top_logprobs,
        max_tokens=options.max_tokens,
        cache_scope=scope,
        adapter=options.adapter,
        sampling=pb.Sampling(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            repetition_penalty=options.repetition_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            logit_bias=options.logit_bias,
            seed=options.seed,
        ),
    )
    for kind, text in structure.items():
        setattr(request, kind, text)
    if turns is not None:
        request.chat.CopyFrom(_chat(turns))
    elif prompt is not None:
        request.prompt = prompt
    else:
        request.token_ids.CopyFrom(pb.TokenIds(ids=token_ids or ()))
    return request


def _structure(options: Options) -> dict[str, str]:
    """The fields of `structure` that are given."""
    schema = options.json_schema
    given = {
        "json_schema": schema if schema is None or isinstance(schema, str) else json.dumps(schema),
        "regex": options.regex,
        "grammar": options.grammar,
    }
    return {kind: text for kind, text in given.items() if text is not None}


def build_tokenize_request(
    *, messages: Iterable[Message] | None = None, prompt: str | None = None, count_only: bool = False
) -> pb.TokenizeRequest:
    """A TokenizeRequest of exactly one of `messages` and `prompt`. Raises as `build_request` does."""
    if (messages is None) == (prompt is None):
        raise ValueError("give exactly one of messages and prompt")
    turns = list(messages or ())
    _require_sendable(turns, prompt or "", (), Options())
    if prompt is not None:
        return pb.TokenizeRequest(prompt=prompt, count_only=count_only)
    return pb.TokenizeRequest(chat=_chat(turns), count_only=count_only)


def build_detokenize_request(token_ids: Sequence[int]) -> pb.DetokenizeRequest:
    """Raises InvalidRequest for what is no token."""
    _require_sendable((), "", token_ids, Options())
    return pb.DetokenizeRequest(token_ids=token_ids)


def _chat(turns: Iterable[Message]) -> pb.Chat:
    return pb.Chat(messages=[pb.Message(role=role, content=content) for role, content in turns])


def _require_sendable(turns: Iterable[Message], prompt: str, token_ids: Iterable[int], options: Options) -> None:
    if faults := tuple(_unsendable(turns, prompt, token_ids, options)):
        raise InvalidRequest("; ".join(f"{field}: {reason}" for field, reason in faults), faults)


def _unsendable(
    turns: Iterable[Message], prompt: str, token_ids: Iterable[int], options: Options
) -> Iterator[Violation]:
    """Numbers and texts that protobuf refuses, sorted by field; of the token ids, the first."""
    yield from _text_fault("adapter", options.adapter or "")
    for at, (role, content) in enumerate(turns):
        yield from _text_fault(f"chat.messages[{at}].content", content)
        yield from _text_fault(f"chat.messages[{at}].role", role)
    for kind, text in _structure(options).items():
        yield from _text_fault(kind, text)
    yield from _number_fault("max_tokens", options.max_tokens, bits=32)
    yield from _text_fault("prompt", prompt)
    for token in options.logit_bias:
        yield from _number_fault(f"sampling.logit_bias[{token}]", token, bits=32)
    yield from _number_fault("sampling.seed", options.seed, bits=64)
    yield from _number_fault("sampling.top_k", options.top_k, bits=32)
    for at, text in enumerate(options.stop):
        yield from _text_fault(f"stop[{at}]", text)
    yield from _number_fault("top_logprobs", options.top_logprobs, bits=32)
    faults = (_number_fault(f"token_ids.ids[{at}]", token, bits=32) for at, token in enumerate(token_ids))
    yield from next((found for fault in faults if (found := list(fault))), [])


def _number_fault(field: str, number: int | None, *, bits: int) -> Iterator[Violation]:
    if number is not None and not 0 <= number < 1 << bits:
        yield field, f"must be 0 to {(1 << bits) - 1} (got {number})"


def _text_fault(field: str, text: str) -> Iterator[Violation]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        yield field, f"must be text that UTF-8 can hold (character {error.start} is not)"


def event_of(response: pb.GenerateResponse) -> Event | None:
    """None for a kind of event that only newer clients know."""
    kind = response.WhichOneof("event")
    if kind is None:
        return None
    if kind == "delta":
        delta = response.delta
        return Delta(delta.text, tuple(delta.token_ids), tuple(map(_logprobs_of, delta.logprobs)))
    if kind == "started":
        started = response.started
        return Started(started.request_id, started.model, started.prompt_tokens)
    end = response.finished
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
    )


def _logprobs_of(logprobs: pb.TokenLogprobs) -> TokenLogprobs:
    return TokenLogprobs(logprobs.logprob, tuple((each.token_id, each.logprob) for each in logprobs.top))


def joined(events: Iterable[Event]) -> Completion:
    """A whole answer from its events."""
    text: list[str] = []
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    finished = None
    for event in events:  # to its end, so that the call ends as the daemon ends it
        if isinstance(event, Delta):
            text.append(event.text)
            token_ids += event.token_ids
            logprobs += event.logprobs
        elif isinstance(event, Finished):
            finished = event
    if finished is None:
        raise ClientError("the stream ended without a result")
    return Completion("".join(text), tuple(token_ids), finished, tuple(logprobs))
