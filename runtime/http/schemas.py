"""What the OpenAI API lets clients send, as far as it can be done here; what cannot is no known key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ..requests.chat_json import ChatMessage, Tool
from ..validation import StrictModel

Number = float
TokenIds = list[int]


class StreamOptions(StrictModel):
    include_usage: bool = False
    include_obfuscation: bool = False
    """Of no use here: whoever sees the sizes of packets on this machine sees more than that."""


class JsonSchema(StrictModel):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class NamedFunction(StrictModel):
    name: str


class NamedTool(StrictModel):
    type: Literal["function"]
    function: NamedFunction


class TemplateArguments(StrictModel):
    """Of other servers' making; Qwen3's chat template has this one."""

    enable_thinking: bool | None = None


class Common(StrictModel):
    """What both kinds of request have. The keys from `top_k` on are not OpenAI's."""

    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = None
    prompt_cache_key: str | None = None
    # They say nothing to us, and change nothing that a client could see.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None

    top_k: int | None = None
    min_p: Number | None = None
    repetition_penalty: Number | None = None
    ignore_eos: bool | None = None
    deterministic: bool | None = None
    adapter: str | None = None


class ChatRequest(Common):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: Literal[True] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Any = None

    chat_template_kwargs: TemplateArguments | None = None
    thinking_budget_tokens: int | None = None
    preset: str | None = None
    preset_values: dict[str, str] | None = None


class CompletionRequest(Common):
    """`POST /v1/completions`."""

    prompt: str | list[str] | TokenIds | list[TokenIds]
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None
    logprobs: int | None = None
