"""Many requests as lines of JSON, and their answers as such."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TextIO

import click

from .errors import ClientError, InvalidRequest
from .messages import Ask, Completion, Options, Tool, ToolCall, Turn
from .requests import build_request

_OPTIONS = {field.name for field in fields(Options)}
_KEYS = {"id", "messages", "prompt", "token_ids", "options"}
_TOLD_EVERY_S = 1.0


@dataclass(frozen=True)
class Line:
    """A request and what its sender calls it."""

    ask: Ask
    id: object = None


def read_lines(file: TextIO, options: Options) -> list[Line]:
    """The requests of a file, empty lines aside. Raises UsageError that names the first line which is none."""
    lines: list[Line] = []
    try:
        for number, text in enumerate(file, 1):
            if text.strip():
                lines.append(_line(text, number, options))
    except UnicodeDecodeError as error:
        raise click.UsageError(f"what is given is not UTF-8 text (byte {error.start})") from error
    if not lines:
        raise click.UsageError("there is no request: give a line of JSON for each")
    return lines


def print_answers(lines: list[Line], results: Iterable[tuple[int, Completion | ClientError]]) -> int:
    """Prints each as it comes, and on a terminal how many are left; returns how many failed."""
    progress = _Progress(sum(line.ask.options.n or 1 for line in lines))
    failed = 0
    for place, result in results:
        said: dict[str, object] = {"request": place}
        if lines[place].id is not None:
            said["id"] = lines[place].id
        if isinstance(result, Completion):
            said |= _answer(result)
        else:
            said["error"] = str(result)
            failed += 1
        click.echo(json.dumps(said, ensure_ascii=False))
        progress.one_more()
    progress.end()
    return failed


def _answer(whole: Completion) -> dict[str, object]:
    """Its deltas' figures are left to `generate`; keys that hold nothing are left out."""
    end = whole.finished
    shown = {
        "index": end.index,
        "text": whole.text,
        "reasoning": whole.reasoning,
        "tool_calls": [asdict(call) for call in whole.tool_calls],
        "logprobs": [asdict(each) for each in whole.logprobs],
        "reason": end.reason,
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_ms": round(end.total_ms, 1),
    }
    return {key: value for key, value in shown.items() if value or key not in ("reasoning", "tool_calls", "logprobs")}


def _line(text: str, number: int, options: Options) -> Line:
    try:
        given = json.loads(text)
        ask = _ask(given, options)
        build_request(messages=ask.messages, prompt=ask.prompt, token_ids=ask.token_ids, options=ask.options)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidRequest) as error:
        raise click.UsageError(f"line {number} is no request: {error}") from error
    return Line(ask, given.get("id"))


def _ask(given: Any, options: Options) -> Ask:
    if not isinstance(given, dict) or not given.keys() <= _KEYS:
        raise ValueError(f"it has to be an object with some of {', '.join(sorted(_KEYS))}")
    messages, ids = given.get("messages"), given.get("token_ids")
    return Ask(
        messages=None if messages is None else tuple(map(_turn, messages)),
        prompt=given.get("prompt"),
        token_ids=None if ids is None else tuple(ids),
        options=_options(options, given.get("options", {})),
    )


def _options(options: Options, given: dict[str, Any]) -> Options:
    if unknown := given.keys() - _OPTIONS:
        raise ValueError(f"there is no option {', '.join(sorted(unknown))}")
    values = dict(given)
    if "tools" in values:
        values["tools"] = tuple(Tool(**tool) for tool in values["tools"])
    if "stop" in values:
        values["stop"] = tuple(values["stop"])
    if "logit_bias" in values:
        values["logit_bias"] = {int(token): bias for token, bias in values["logit_bias"].items()}
    return replace(options, **values)


def _turn(message: dict[str, Any]) -> Turn:
    calls = tuple(ToolCall(**call) for call in message.get("tool_calls", ()))
    return replace(Turn(**message), tool_calls=calls)


class _Progress:
    """A line on stderr that tells how many are done and about how long the rest takes; none if that is no terminal."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._began_s = self._told_s = time.monotonic()
        self._shown = sys.stderr.isatty() and not sys.stdout.isatty()

    def one_more(self) -> None:
        self._done += 1
        now_s = time.monotonic()
        if self._shown and now_s - self._told_s >= _TOLD_EVERY_S:
            self._told_s = now_s
            left_s = (now_s - self._began_s) / self._done * (self._total - self._done)
            click.echo(f"\r{self._done}/{self._total}, about {left_s:.0f} s left\x1b[K", nl=False, err=True)

    def end(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
