"""Renders a conversation with the model's own chat template, as transformers would, in a sandbox."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import Fault, PackageError, RequestError

ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 1024


@dataclass(frozen=True)
class ChatMessage:
    """One turn. `role` is one of ROLES."""

    role: str
    content: str


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
        except jinja2.TemplateError as error:
            raise PackageError(f"the package's chat template is broken: {error}") from error
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True) -> str:
        """The prompt for `messages`, up to where the assistant's answer begins.

        Raises RequestError for no message, too many, an unknown role, or what the template itself refuses.
        """
        if faults := _faults(messages):
            raise RequestError(faults)
        try:
            return self._template.render(
                messages=[asdict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **self._tokens,
            )
        except jinja2.TemplateError as error:
            raise RequestError([Fault("chat.messages", f"the model's chat template refuses them: {error}")]) from error


def _faults(messages: Sequence[ChatMessage]) -> list[Fault]:
    if not messages:
        return [Fault("chat.messages", "must hold at least one message")]
    if len(messages) > MAX_MESSAGES:
        return [Fault("chat.messages", f"must hold at most {MAX_MESSAGES} messages (got {len(messages)})")]
    return [
        Fault(f"chat.messages[{at}].role", f"must be one of {', '.join(ROLES)} (got {message.role[:40]!r})")
        for at, message in enumerate(messages)
        if message.role not in ROLES
    ]


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> str:
    raise jinja2.TemplateError(message)
