"""What a client asks for, as messages of the contract; what those cannot hold is refused here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .errors import InvalidRequest, Violation
from .messages import Ask, Message, Options, Tool, Turn
from .v1 import generation_pb2 as pb

_THINKING = {"auto": pb.THINKING_AUTO, "on": pb.THINKING_ON, "off": pb.THINKING_OFF}


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
    if messages is None and (options.tools or options.thinking != "auto" or options.preset):
        raise ValueError("tools, thinking and presets are for messages: a prompt is continued as it is")
    turns = [] if messages is None else _turns(messages)
    _require_sendable(turns, prompt or "", token_ids or (), options)
    request = pb.GenerateRequest(
        stop=options.stop,
        ignore_eos=options.ignore_eos,
        top_logprobs=options.top_logprobs,
        max_tokens=options.max_tokens,
        cache_scope=scope,
        thinking_budget_tokens=options.thinking_budget_tokens,
        require_tool_call=options.require_tool_call,
        n=options.n,
        model=options.model,
        adapter=options.adapter,
        deterministic=options.deterministic,
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
    if messages is not None:
        request.chat.CopyFrom(_chat(turns, options))
    elif prompt is not None:
        request.prompt = prompt
    else:
        request.token_ids.CopyFrom(pb.TokenIds(ids=token_ids or ()))
    return request


def build_batch_request(asks: Iterable[Ask], scope: bytes = b"") -> pb.GenerateBatchRequest:
    """A GenerateBatchRequest. Raises as `build_request` does, with the place of the request in the batch."""
    requests: list[pb.GenerateRequest] = []
    faults: list[Violation] = []
    for place, ask in enumerate(asks):
        try:
            requests.append(
                build_request(
                    messages=ask.messages,
                    prompt=ask.prompt,
                    token_ids=ask.token_ids,
                    options=ask.options,
                    scope=scope,
                )
            )
        except InvalidRequest as error:
            faults += [(f"requests[{place}].{field}", reason) for field, reason in error.violations]
        except ValueError as error:
            raise ValueError(f"requests[{place}]: {error}") from error
    models = list(dict.fromkeys(request.model for request in requests))
    if len(models) > 1:
        faults.append(("model", f"must be the same for all of a batch (got {', '.join(map(repr, models))})"))
    _require_none(faults)
    for request in requests:
        request.ClearField("model")
    return pb.GenerateBatchRequest(requests=requests, model=models[0] if models else "")


def build_tokenize_request(
    *,
    messages: Iterable[Message] | None = None,
    prompt: str | None = None,
    options: Options | None = None,
    count_only: bool = False,
) -> pb.TokenizeRequest:
    """A TokenizeRequest of exactly one of `messages` and `prompt`. Raises as `build_request` does."""
    if (messages is None) == (prompt is None):
        raise ValueError("give exactly one of messages and prompt")
    options = options or Options()
    turns = _turns(messages or ())
    _require_sendable(turns, prompt or "", (), options)
    if prompt is not None:
        return pb.TokenizeRequest(prompt=prompt, count_only=count_only)
    return pb.TokenizeRequest(chat=_chat(turns, options), count_only=count_only)


def build_detokenize_request(token_ids: Sequence[int]) -> pb.DetokenizeRequest:
    """Raises InvalidRequest for what is no token."""
    _require_sendable((), "", token_ids, Options())
    return pb.DetokenizeRequest(token_ids=token_ids)


def _structure(options: Options) -> dict[str, str]:
    """The fields of `structure` that are given."""
    schema = options.json_schema
    given = {
        "json_schema": None if schema is None else _json_text(schema),
        "regex": options.regex,
        "grammar": options.grammar,
    }
    return {kind: text for kind, text in given.items() if text is not None}


def _json_text(schema: Mapping[str, object] | str) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema)


def _turns(messages: Iterable[Message]) -> list[Turn]:
    return [message if isinstance(message, Turn) else Turn(*message) for message in messages]


def _chat(turns: Iterable[Turn], options: Options) -> pb.Chat:
    if options.thinking not in _THINKING:
        raise ValueError(f"thinking is one of {', '.join(_THINKING)} (got {options.thinking!r})")
    return pb.Chat(
        messages=map(_message, turns),
        tools=map(_tool, options.tools),
        thinking=_THINKING[options.thinking],
        preset=options.preset,
        preset_values=options.preset_values,
    )


def _message(turn: Turn) -> pb.Message:
    calls = [pb.ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in turn.tool_calls]
    return pb.Message(
        role=turn.role,
        content=turn.content,
        reasoning=turn.reasoning,
        tool_calls=calls,
        tool_call_id=turn.tool_call_id,
    )


def _tool(tool: Tool) -> pb.Tool:
    parameters = "" if tool.parameters is None else _json_text(tool.parameters)
    return pb.Tool(name=tool.name, description=tool.description, parameters=parameters)


def _require_sendable(turns: Iterable[Turn], prompt: str, token_ids: Iterable[int], options: Options) -> None:
    _require_none(list(_unsendable(turns, prompt, token_ids, options)))


def _require_none(faults: list[Violation]) -> None:
    if faults:
        raise InvalidRequest("; ".join(f"{field}: {reason}" for field, reason in faults), tuple(faults))


def _unsendable(turns: Iterable[Turn], prompt: str, token_ids: Iterable[int], options: Options) -> Iterator[Violation]:
    """Numbers and texts that protobuf refuses, sorted by field; of the token ids, the first."""
    yield from _text_fault("model", options.model or "")
    yield from _text_fault("adapter", options.adapter or "")
    for at, turn in enumerate(turns):
        yield from _turn_faults(f"chat.messages[{at}]", turn)
    yield from _text_fault("chat.preset", options.preset)
    for name, value in options.preset_values.items():
        yield from _text_fault("chat.preset_values", name + value)
    for at, tool in enumerate(options.tools):
        yield from _text_fault(f"chat.tools[{at}].description", tool.description)
        yield from _text_fault(f"chat.tools[{at}].name", tool.name)
    for kind, text in _structure(options).items():
        yield from _text_fault(kind, text)
    yield from _number_fault("max_tokens", options.max_tokens, bits=32)
    yield from _number_fault("n", options.n, bits=32)
    yield from _text_fault("prompt", prompt)
    for token in options.logit_bias:
        yield from _number_fault(f"sampling.logit_bias[{token}]", token, bits=32)
    yield from _number_fault("sampling.seed", options.seed, bits=64)
    yield from _number_fault("sampling.top_k", options.top_k, bits=32)
    for at, text in enumerate(options.stop):
        yield from _text_fault(f"stop[{at}]", text)
    yield from _number_fault("thinking_budget_tokens", options.thinking_budget_tokens, bits=32)
    yield from _number_fault("top_logprobs", options.top_logprobs, bits=32)
    faults = (_number_fault(f"token_ids.ids[{at}]", token, bits=32) for at, token in enumerate(token_ids))
    yield from next((found for fault in faults if (found := list(fault))), [])


def _turn_faults(path: str, turn: Turn) -> Iterator[Violation]:
    yield from _text_fault(f"{path}.content", turn.content)
    yield from _text_fault(f"{path}.reasoning", turn.reasoning)
    yield from _text_fault(f"{path}.role", turn.role)
    yield from _text_fault(f"{path}.tool_call_id", turn.tool_call_id)
    for number, call in enumerate(turn.tool_calls):
        for name, text in (("arguments", call.arguments), ("id", call.id), ("name", call.name)):
            yield from _text_fault(f"{path}.tool_calls[{number}].{name}", text)


def _number_fault(field: str, number: int | None, *, bits: int) -> Iterator[Violation]:
    if number is not None and not 0 <= number < 1 << bits:
        yield field, f"must be 0 to {(1 << bits) - 1} (got {number})"


def _text_fault(field: str, text: str) -> Iterator[Violation]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        yield field, f"must be text that UTF-8 can hold (character {error.start} is not)"
