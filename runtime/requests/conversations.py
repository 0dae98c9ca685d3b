"""From a Chat on the wire to a prompt and the form of the turn that answers it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from edgeqwen.v1 import generation_pb2 as pb

from ..engine.grammar import Grammars, read_schema
from ..engine.sequence import ToolCall
from ..engine.structure import Grammar
from ..engine.tokenizer import Tokenizer
from ..engine.turn import Marks, TurnForm
from ..errors import Fault, RequestError
from ..package import SamplingDefaults
from ..presets import Preset, Presets
from .chat import ChatMessage, ChatTemplate, Tool

MAX_TOOLS = 64
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# How the models that have them spell the marks of a turn's parts.
_THINK = ("<think>", "</think>")
_CALL = ("<tool_call>", "</tool_call>")
_THINKING = {pb.THINKING_ON: True, pb.THINKING_OFF: False}
_PRESET_THINKING = {"auto": None, "on": True, "off": False}


@dataclass(frozen=True)
class Wish:
    """What a request says of the turn, beside the conversation."""

    answer: Grammar | None = None
    """What the answer must look like."""
    must_call: bool = False
    reasoning_tokens: int | None = None

    @property
    def held(self) -> bool:
        """Whether the answer has to be something in particular."""
        return self.answer is not None or self.must_call


@dataclass(frozen=True)
class Conversation:
    """A prompt, what the turn that follows it may consist of, and the sampling that goes with it, if there is one."""

    prompt: list[int]
    turn: TurnForm = field(default_factory=TurnForm)
    sampling: SamplingDefaults | None = None


class ConversationReader:
    """Reads conversations for one model.

    Args:
        template: None if the package has none; conversations are refused then.
        grammars: compiles what calls must look like.
        presets: the package's.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate | None, grammars: Grammars, presets: Presets
    ) -> None:
        self._tokenizer, self._template, self._grammars = tokenizer, template, grammars
        self._presets = presets
        self._think, self._call = self._marks(_THINK), self._marks(_CALL)
        self._newline, self._blank_line = (tuple(tokenizer.encode(text)) for text in ("\n", "\n\n"))

    def read(self, chat: pb.Chat, wish: Wish) -> Conversation:
        """Raises RequestError."""
        template = self._template
        if template is None:
            raise RequestError([Fault("chat", "this model has no chat template; send a raw prompt")])
        preset = self._preset(chat)
        tools = self._tools(chat, template)
        faults = self._wish_faults(tools, wish)
        messages = list(map(_message, chat.messages))
        if preset:
            messages = _instructed(messages, preset.instructions(chat.preset_values))
        thinking = self._thinking(chat, preset, wish, template)
        text = template.render(messages, tools=tools, thinking=thinking)
        opened = self._think is not None and text.rstrip().endswith(_THINK[0])
        if thinking and not opened:
            text, opened = f"{text}{_THINK[0]}\n", True
        if chat.thinking == pb.THINKING_ON and not opened:
            faults.append(Fault("chat.thinking", "this model does not reason: leave it, or set THINKING_OFF"))
        if chat.thinking == pb.THINKING_OFF and opened:
            faults.append(Fault("chat.thinking", "this model always reasons: bound it with thinking_budget_tokens"))
        if faults:
            raise RequestError(faults)
        form = self._form(tools, wish, opened=opened)
        return Conversation(self._tokenizer.encode(text), form, preset.sampling if preset else None)

    def _thinking(self, chat: pb.Chat, preset: Preset | None, wish: Wish, template: ChatTemplate) -> bool | None:
        """Whether the template is told to have the model reason; None leaves it to the template."""
        if not (template.has_thinking and self._think):
            return None
        thinking = _THINKING.get(chat.thinking)
        if thinking is None and wish.held:
            return False
        if thinking is None and preset:
            return _PRESET_THINKING[preset.thinking]
        return thinking

    def _preset(self, chat: pb.Chat) -> Preset | None:
        if not chat.preset:
            if chat.preset_values:
                raise RequestError([Fault("chat.preset_values", "need chat.preset")])
            return None
        if chat.preset not in self._presets:
            have = ", ".join(sorted(self._presets)) or "none"
            raise RequestError(
                [Fault("chat.preset", f"must be one of this package's: {have} (got {chat.preset[:40]!r})")]
            )
        return self._presets[chat.preset]

    def _form(self, tools: list[Tool], wish: Wish, *, opened: bool) -> TurnForm:
        if self._think is None and not tools:
            return TurnForm(answer=wish.answer)
        call = None
        if tools and self._call:
            call = self._grammars.calls("chat.tools", {tool.name: tool.parameters for tool in tools}, self._call.close)
        return TurnForm(
            reasoning=self._think,
            reasons_at_once=opened,
            reasoning_tokens=wish.reasoning_tokens,
            break_off=self._newline,
            before_answer=self._blank_line,
            calls=self._call if tools else None,
            call=call,
            must_call=wish.must_call,
            answer=wish.answer,
        )

    def _wish_faults(self, tools: list[Tool], wish: Wish) -> list[Fault]:
        faults: list[Fault] = []
        if wish.must_call and not tools:
            faults.append(Fault("require_tool_call", "needs chat.tools"))
        if wish.answer and tools:
            faults.append(Fault("chat.tools", "cannot be together with a structure: a call has its own"))
        if wish.reasoning_tokens is not None and self._think is None:
            faults.append(Fault("thinking_budget_tokens", "this model does not reason: leave it out"))
        return faults

    def _tools(self, chat: pb.Chat, template: ChatTemplate) -> list[Tool]:
        if not chat.tools:
            return []
        if not template.has_tools or self._call is None:
            raise RequestError([Fault("chat.tools", "this model's chat template knows no tools: leave them out")])
        if len(chat.tools) > MAX_TOOLS:
            raise RequestError([Fault("chat.tools", f"must hold at most {MAX_TOOLS} tools (got {len(chat.tools)})")])
        tools: list[Tool] = []
        faults = list(_name_faults(chat.tools))
        for at, tool in enumerate(chat.tools):
            try:
                tools.append(_tool(f"chat.tools[{at}]", tool))
            except RequestError as error:
                faults += error.faults
        if faults:
            raise RequestError(faults)
        return tools

    def _marks(self, spelled: tuple[str, str]) -> Marks | None:
        """None unless each is a token of its own."""
        begin, end = map(self._tokenizer.token_id, spelled)
        return None if begin is None or end is None else Marks(begin, end)


def _tool(path: str, tool: pb.Tool) -> Tool:
    if not tool.parameters:
        return Tool(tool.name, tool.description)
    parameters = read_schema(f"{path}.parameters", tool.parameters)
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise RequestError([Fault(f"{path}.parameters", 'must be a schema of "type": "object"')])
    return Tool(tool.name, tool.description, parameters)


def _name_faults(tools: Iterable[pb.Tool]) -> Iterable[Fault]:
    names: set[str] = set()
    for at, tool in enumerate(tools):
        if not _TOOL_NAME.fullmatch(tool.name):
            message = f'must be 1 to 64 letters, digits, "_", "-" or "." (got {tool.name[:70]!r})'
            yield Fault(f"chat.tools[{at}].name", message)
        elif tool.name in names:
            yield Fault(f"chat.tools[{at}].name", f"must differ from the others ({tool.name} is there twice)")
        names.add(tool.name)


def _instructed(messages: list[ChatMessage], instructions: str) -> list[ChatMessage]:
    """With the instructions first, in the system message if there is one."""
    if messages and messages[0].role == "system":
        return [replace(messages[0], content=f"{instructions}\n\n{messages[0].content}"), *messages[1:]]
    return [ChatMessage("system", instructions), *messages]


def _message(message: pb.Message) -> ChatMessage:
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls)
    return ChatMessage(message.role, message.content, message.reasoning, calls, message.tool_call_id)
