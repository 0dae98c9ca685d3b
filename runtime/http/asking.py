"""From the OpenAI API's requests to GenerateRequests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from edgeqwen.v1 import generation_pb2 as pb

from ..access.caller import current
from ..errors import Fault, RequestError
from ..requests.fields import set_field
from .schemas import ChatRequest, Common, CompletionRequest, NamedTool

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_ALSO = ("n", "ignore_eos", "deterministic", "adapter")

# Places in a GenerateRequest, and what a client of this API calls them; the first that fits counts.
_PARAMETERS = (
    (r"chat\.tools\[(\d+)\]\.(.*)", r"tools[\1].function.\2"),
    (r"chat\.thinking", "reasoning_effort"),
    (r"chat\.", ""),
    (r"chat$", "messages"),
    (r"sampling\.", ""),
    (r"token_ids\.ids", "prompt"),
    (r"json_schema", "response_format.json_schema.schema"),
    (r"require_tool_call", "tool_choice"),
)
_ALTERNATIVE = re.compile(r"\.(str|list\[|literal\[|NamedTool).*")  # of the types that a value may have


def chat(asked: ChatRequest) -> pb.GenerateRequest:
    """Raises RequestError for what does not go together; paths are those of the JSON."""
    faults: list[Fault] = []
    request = pb.GenerateRequest(
        chat=pb.Chat(
            messages=[message.message() for message in asked.messages],
            preset=asked.preset or "",
            preset_values=asked.preset_values or {},
            thinking=_thinking(asked),
        )
    )
    faults += _read_common(asked, request)
    faults += _read_tools(asked, request)
    faults += _read_format(asked, request)
    if asked.max_completion_tokens is not None:
        if asked.max_tokens not in (None, asked.max_completion_tokens):
            faults.append(Fault("max_tokens", "must be unset beside max_completion_tokens"))
        faults += set_field(request, "max_tokens", asked.max_completion_tokens, "max_completion_tokens")
    if asked.thinking_budget_tokens is not None:
        faults += set_field(request, "thinking_budget_tokens", asked.thinking_budget_tokens, "thinking_budget_tokens")
    if asked.logprobs:
        faults += set_field(request, "top_logprobs", asked.top_logprobs or 0, "top_logprobs")
    elif asked.top_logprobs is not None:
        faults.append(Fault("top_logprobs", "needs `logprobs: true`"))
    return _or_raise(request, faults)


def completion(asked: CompletionRequest) -> pb.GenerateRequest:
    """Raises RequestError, as `chat` does."""
    request = pb.GenerateRequest()
    faults = _read_common(asked, request)
    prompt: object = asked.prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        request.prompt = prompt
    elif isinstance(prompt, list) and all(isinstance(each, int) for each in prompt):
        try:
            request.token_ids.ids.extend(prompt)
        except ValueError:
            faults.append(Fault("prompt", "has a token that is out of range"))
    else:
        faults.append(Fault("prompt", "must be one: send a request for each"))
    if asked.logprobs is not None:
        faults += set_field(request, "top_logprobs", asked.logprobs, "logprobs")
    return _or_raise(request, faults)


def parameter_of(path: str) -> str:
    """What a client of this API calls that place of a GenerateRequest."""
    path = _ALTERNATIVE.sub("", path)
    for pattern, name in _PARAMETERS:
        found, count = re.subn(rf"^{pattern}", name, path)
        if count:
            return found
    return path


def _or_raise(request: pb.GenerateRequest, faults: list[Fault]) -> pb.GenerateRequest:
    if faults:
        raise RequestError(faults)
    return request


def _read_common(asked: Common, request: pb.GenerateRequest) -> list[Fault]:
    faults: list[Fault] = []
    request.model = asked.model
    request.stop.extend([asked.stop] if isinstance(asked.stop, str) else asked.stop or ())
    for target, names in ((request.sampling, _SAMPLING), (request, _ALSO)):
        for name in names:
            if (value := getattr(asked, name)) is not None:
                faults += set_field(target, name, value, name)
    if asked.max_tokens is not None:
        faults += set_field(request, "max_tokens", asked.max_tokens, "max_tokens")
    if asked.seed is not None:
        request.sampling.seed = asked.seed % (1 << 64)  # there are negative ones
    for token, bias in (asked.logit_bias or {}).items():
        if re.fullmatch(r"\d{1,9}", token):
            request.sampling.logit_bias[int(token)] = bias
        else:
            faults.append(Fault(f"logit_bias.{token[:20]}", "must be a token id"))
    if asked.stream_options is not None and not asked.stream:
        faults.append(Fault("stream_options", "needs `stream: true`"))
    if asked.prompt_cache_key:
        # Whoever else knows the key shares nothing with this caller.
        name = current().name
        request.cache_scope = hashlib.sha256(f"{len(name)} {name}{asked.prompt_cache_key}".encode()).digest()
    return faults


def _read_tools(asked: ChatRequest, request: pb.GenerateRequest) -> Iterable[Fault]:
    tools, choice = asked.tools or [], asked.tool_choice
    request.require_tool_call = choice == "required" or isinstance(choice, NamedTool)
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
        if not tools:
            yield Fault("tool_choice.function.name", "must be that of one of the tools")
            return
    if choice != "none":
        request.chat.tools.extend(tool.tool() for tool in tools)


def _read_format(asked: ChatRequest, request: pb.GenerateRequest) -> Iterable[Fault]:
    wanted = asked.response_format
    if wanted is None:
        return
    if wanted.type == "json_object":
        request.json_schema = '{"type": "object"}'
    if wanted.type == "json_schema" and wanted.json_schema is not None:
        request.json_schema = json.dumps(wanted.json_schema.schema_, ensure_ascii=False)
    elif wanted.type == "json_schema":
        yield Fault("response_format.json_schema", "is required")


def _thinking(asked: ChatRequest) -> pb.Thinking:
    template = asked.chat_template_kwargs
    if asked.reasoning_effort is not None:
        return pb.THINKING_OFF if asked.reasoning_effort == "none" else pb.THINKING_ON
    if template is None or template.enable_thinking is None:
        return pb.THINKING_AUTO
    return pb.THINKING_ON if template.enable_thinking else pb.THINKING_OFF
