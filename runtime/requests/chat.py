"""Renders a conversation with the model's own chat template, as transformers would, in a sandbox."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import jinja2
from jinja2.ext import loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..engine.sequence import ToolCall
from ..errors import Fault, PackageError, RequestError

ROLES = ("system", "user", "assistant", "tool")
MAX_MESSAGES = 1024


@dataclass(frozen=True)
class ChatMessage:
    """One turn. `role` is one of ROLES; reasoning and calls are an assistant's, `tool_call_id` is a tool's."""

    role: str
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=lambda: {"type": "object", "properties": {}})


class ChatTemplate:
    """A compiled template. Templates come with checkpoints, so they run without access to anything."""

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        """Compiles `source`. Raises PackageError if it is no template."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = time.strftime
        try:
            self._template = environment.from_string(source)
            asked = find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateError as error:
            raise PackageError(f"the package's chat template is broken: {error}") from error
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self.has_tools = "tools" in asked
        """Whether it tells the model of tools."""
        self.has_thinking = "enable_thinking" in asked
        """Whether it can be told to have the model reason, or not."""

    def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[Tool] = (),
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt for `messages`, up to where the assistant's answer begins.

        Raises RequestError for no message, too many, a turn that makes no sense, or what the template itself refuses.
        """
        if not messages:
            raise RequestError([Fault("chat.messages", "must hold at least one message")])
        if len(messages) > MAX_MESSAGES:
            message = f"must hold at most {MAX_MESSAGES} messages (got {len(messages)})"
            raise RequestError([Fault("chat.messages", message)])
        turns, faults = _for_template(messages)
        if faults:
            raise RequestError(faults)
        switch = {} if thinking is None else {"enable_thinking": thinking}
        try:
            return self._template.render(
                messages=turns,
                tools=list(map(_tool_for_template, tools)) or None,
                add_generation_prompt=add_generation_prompt,
                **switch,
                **self._tokens,
            )
        except jinja2.TemplateError as error:
            raise RequestError([Fault("chat.messages", f"the model's chat template refuses them: {error}")]) from error


def _for_template(messages: Sequence[ChatMessage]) -> tuple[list[dict[str, object]], list[Fault]]:
    """The messages as templates expect them, which is as the OpenAI API has them."""
    turns: list[dict[str, object]] = []
    faults: list[Fault] = []
    for at, message in enumerate(messages):
        path = f"chat.messages[{at}]"
        faults += _role_faults(path, message)
        turn: dict[str, object] = {"role": message.role, "content": message.content}
        if message.reasoning:
            turn["reasoning_content"] = message.reasoning
        if message.tool_calls:
            calls = []
            for number, call in enumerate(message.tool_calls):
                arguments = _object(call.arguments)
                if arguments is None:
                    faults.append(Fault(f"{path}.tool_calls[{number}].arguments", "must be a JSON object"))
                function = {"name": call.name, "arguments": arguments}
                calls.append({"id": call.id, "type": "function", "function": function})
            turn["tool_calls"] = calls
        if message.tool_call_id:
            turn["tool_call_id"] = message.tool_call_id
        turns.append(turn)
    return turns, faults


def _role_faults(path: str, message: ChatMessage) -> Iterator[Fault]:
    if message.role not in ROLES:
        yield Fault(f"{path}.role", f"must be one of {', '.join(ROLES)} (got {message.role[:40]!r})")
        return
    if message.reasoning and message.role != "assistant":
        yield Fault(f"{path}.reasoning", "is only an assistant's")
    if message.tool_calls and message.role != "assistant":
        yield Fault(f"{path}.tool_calls", "are only an assistant's")
    if message.tool_call_id and message.role != "tool":
        yield Fault(f"{path}.tool_call_id", "is only a tool's")


def _object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _tool_for_template(tool: Tool) -> dict[str, object]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> str:
    raise jinja2.TemplateError(message)
