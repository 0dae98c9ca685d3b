"""Shows answers in a terminal, or as JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import click

from .errors import ClientError
from .messages import Completion, Delta, Event, Finished, completions_of


@dataclass(frozen=True)
class Printing:
    """How to show an answer: text goes to stdout, how the model reasons to stderr."""

    stats: bool
    as_json: bool

    def show(self, events: Iterator[Event]) -> Completion:
        """Prints one answer as it comes; returns it whole."""
        seen: list[Event] = []
        screen = _Screen()
        try:
            for event in events:
                seen.append(event)
                if self.as_json:
                    self._as_json(event)
                elif isinstance(event, Delta):
                    screen.show(event)
                if isinstance(event, Finished):
                    self._finish(event)
        except ClientError:
            if screen.used:
                click.echo()  # what follows is not part of the answer
            raise
        return completions_of(seen)[0]

    def show_samples(self, events: Iterator[Event]) -> None:
        """Prints several answers: whole, one after the other; as JSON, as they come."""
        seen: list[Event] = []
        for event in events:
            seen.append(event)
            if self.as_json:
                self._as_json(event)
        if self.as_json:
            return
        for number, answer in enumerate(completions_of(seen), 1):
            click.secho(f"--- {number}", err=True, dim=True)
            _Screen().show(Delta(answer.text, (), (), answer.reasoning, answer.tool_calls))
            self._finish(answer.finished)

    def _as_json(self, event: Event) -> None:
        kind = type(event).__name__.lower()
        click.echo(json.dumps({"event": kind, **asdict(event)}, ensure_ascii=False))

    def _finish(self, event: Finished) -> None:
        if not self.as_json:
            click.echo()
        if self.stats:
            cached = f", {event.cached_prompt_tokens} of them cached," if event.cached_prompt_tokens else ""
            click.echo(
                f"{event.completion_tokens} tokens, {event.decode_tokens_per_second:.1f} tokens/s,"
                f" first after {event.time_to_first_token_ms:.0f} ms, prompt of {event.prompt_tokens}{cached}"
                f" at {event.prefill_tokens_per_second:.0f} tokens/s, ended by {event.reason}",
                err=True,
            )


class _Screen:
    """One answer on a terminal: how the model reasons in dim letters, a line for each call."""

    def __init__(self) -> None:
        self.used = False
        self._reasoning = False

    def show(self, delta: Delta) -> None:
        if delta.reasoning:
            click.secho(delta.reasoning, nl=False, err=True, dim=True)
            self._reasoning = True
        lines = [json.dumps({"call": call.name, "arguments": json.loads(call.arguments)}) for call in delta.tool_calls]
        if not (delta.text or lines):
            return
        if self._reasoning:
            click.echo("\n", err=True)
            self._reasoning = False
        click.echo(delta.text, nl=False)
        self.used |= bool(delta.text)
        for line in lines:
            click.echo(f"\n{line}" if self.used else line, nl=False)
            self.used = True
