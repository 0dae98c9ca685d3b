"""Conversations as JSON, in the form that the OpenAI API gave them and other protocols took over."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from edgeqwen.v1 import generation_pb2 as pb

from ..validation import StrictModel


class _Loose(BaseModel):
    """What clients send back as they got it may have keys that say nothing to us."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


def _joined(content: object) -> object:
    """The text of a list of parts; other parts than text have no place here."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
        raise ValueError('must be text, or a list of parts of "type": "text"')
    return "".join(map(str, texts))


class CalledFunction(_Loose):
    name: str
    arguments: str = ""


class ToolCall(_Loose):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(_Loose):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(_joined)] = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def message(self) -> pb.Message:
        return pb.Message(
            role="system" if self.role == "developer" else self.role,
            content=self.content or "",
            reasoning=self.reasoning_content or "",
            tool_calls=[
                pb.ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
                for call in self.tool_calls or ()
            ],
            tool_call_id=self.tool_call_id or "",
        )


class Function(StrictModel):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """A call always has the form that the parameters have, so this says nothing new."""


class Tool(StrictModel):
    type: Literal["function"]
    function: Function

    def tool(self) -> pb.Tool:
        function = self.function
        parameters = json.dumps(function.parameters, ensure_ascii=False) if function.parameters else ""
        return pb.Tool(name=function.name, description=function.description or "", parameters=parameters)


class Conversation(StrictModel):
    """Messages alone."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
