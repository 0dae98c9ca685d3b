"""`edgeqwen`: talk to a daemon from a shell or a script."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from .client import (
    Client,
    ClientError,
    DeadlineExceeded,
    Delta,
    Event,
    Finished,
    InvalidRequest,
    Message,
    Options,
    QueueFull,
    ServerUnavailable,
    checked_target,
    default_target,
)

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_INTERRUPTED = 130  # as shells have it
_LONGEST_TIMEOUT_S = 366 * 86_400.0

# Where sysexits.h and timeout(1) have a number for it, theirs.
_EXIT_CODES: tuple[tuple[type[ClientError], int], ...] = (
    (InvalidRequest, 3),
    (ServerUnavailable, 69),
    (QueueFull, 75),
    (DeadlineExceeded, 124),
    (ClientError, 1),
)


class _Group(click.Group):
    """A group whose commands end with one line and the error's exit status; Ctrl-C needs no line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as error:
            click.echo(f"edgeqwen: {error}", err=True)
            sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
        except KeyboardInterrupt:
            click.echo(err=True)
            sys.exit(_INTERRUPTED)


def _target(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return checked_target(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group(
    cls=_Group,
    context_settings=_SETTINGS,
    epilog="""\b
Examples:
  edgeqwen chat "Why is the pump vibrating?"
  edgeqwen chat                            # a conversation; /help inside
  dmesg | tail -20 | edgeqwen chat "What went wrong here?"
  edgeqwen generate "Once upon a time" --max-tokens 64 --seed 7 --temperature 0.8
  edgeqwen status --json

\b
Exit status: 0 done, 1 error, 2 usage, 3 invalid request, 69 no daemon answers,
75 queue full (try again), 124 timeout, 130 Ctrl-C.""",
)
@click.option(
    "--target",
    default=default_target,
    callback=_target,
    help="unix:PATH or HOST:PORT. Default: EDGEQWEN_TARGET or the system's socket.",
)
@click.version_option(package_name="edgeqwen")
@click.pass_context
def main(ctx: click.Context, target: str) -> None:
    """Talk to an edgeqwen daemon."""
    ctx.obj = target


def _biases(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[int, float]:
    try:
        return {int(token): float(bias) for token, _, bias in (each.partition("=") for each in given)}
    except ValueError:
        raise click.BadParameter("looks like 1234=-100: a token's id and a number") from None


def _text_of(ctx: click.Context, param: click.Parameter, file: str | None) -> str | None:
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"cannot read {file}: {error}") from error


def _generation_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option("--adapter", help="Run the model with this adapter; `edgeqwen status` lists them."),
        click.option("--max-tokens", type=int, help="The most tokens to generate."),
        click.option("--temperature", type=float, help="0 is greedy."),
        click.option("--top-k", type=int, help="Keep the k most likely tokens."),
        click.option("--top-p", type=float, help="Keep the most likely tokens up to this probability."),
        click.option("--min-p", type=float, help="Keep tokens this likely, against the most likely one."),
        click.option("--repetition-penalty", type=float, help="More than 1 avoids repetition."),
        click.option("--presence-penalty", type=float, help="More than 0 avoids tokens that the answer has."),
        click.option("--frequency-penalty", type=float, help="The same, for each time it has them."),
        click.option(
            "--logit-bias",
            multiple=True,
            metavar="TOKEN=BIAS",
            callback=_biases,
            help="Add to a token's logit, -100 to 100; may be given again.",
        ),
        click.option("--top-logprobs", type=int, help="With --json, log-probabilities: of so many tokens beside each."),
        click.option("--json-schema", callback=_text_of, metavar="FILE", help="The answer is JSON of this schema."),
        click.option("--regex", help="The answer matches this regular expression."),
        click.option("--grammar", callback=_text_of, metavar="FILE", help="The answer is of this Lark grammar."),
        click.option("--seed", type=int, help="The same seed gives the same answer."),
        click.option("--stop", multiple=True, help="End before this text; may be given again."),
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(0, _LONGEST_TIMEOUT_S, min_open=True),
            help="Give up after so many seconds.",
        ),
        click.option("--stats", is_flag=True, help="Speed and time to first token, on stderr."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each event."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@dataclasses.dataclass(frozen=True)
class _Printing:
    """How to show an answer."""

    stats: bool
    as_json: bool

    def show(self, events: Iterator[Event]) -> str:
        """Prints events as they come; returns the whole text."""
        text = ""
        try:
            for event in events:
                if self.as_json:
                    kind = type(event).__name__.lower()
                    click.echo(json.dumps({"event": kind, **dataclasses.asdict(event)}, ensure_ascii=False))
                elif isinstance(event, Delta):
                    click.echo(event.text, nl=False)
                if isinstance(event, Delta):
                    text += event.text
                if isinstance(event, Finished):
                    self._finish(event)
        except ClientError:
            if text and not self.as_json:
                click.echo()  # what follows is not part of the answer
            raise
        return text

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


def _split(flags: dict[str, Any]) -> tuple[Options, float | None, _Printing]:
    timeout_s = flags.pop("timeout_s")
    printing = _Printing(flags.pop("stats"), flags.pop("as_json"))
    if sum(flags[name] is not None for name in ("json_schema", "regex", "grammar")) > 1:
        raise click.UsageError("give at most one of --json-schema, --regex and --grammar")
    return Options(**flags), timeout_s, printing


@main.command()
@click.argument("message", required=False)
@click.option("--system", help="Instructions for the model.")
@_generation_options
@click.pass_obj
def chat(target: str, /, message: str | None, system: str | None, **flags: Any) -> None:
    """Ask the model. Without MESSAGE, on a terminal, hold a conversation. What is piped in is added to MESSAGE."""
    options, timeout_s, printing = _split(flags)
    conversation = message is None and _at_terminal()
    piped = "" if _at_terminal() else _piped().strip()
    content = "\n\n".join(part for part in (message, piped) if part)
    if not (conversation or content):
        raise click.UsageError("there is no message: give one, or pipe one in")
    with Client(target) as client:
        if conversation:
            _converse(client, system, options, timeout_s, printing)
            return
        messages = [*_system(system), ("user", content)]
        printing.show(client.generate(messages=messages, options=options, timeout_s=timeout_s))


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _piped() -> str:
    """What is on standard input, to its end; nothing where it is closed."""
    if sys.stdin is None:
        return ""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"what is piped in is not UTF-8 text (byte {error.start})") from error


def _system(text: str | None) -> list[Message]:
    return [("system", text)] if text else []


_HELP = "/reset forgets the conversation, /system TEXT gives instructions, /exit leaves; Ctrl-C stops an answer."


def _converse(
    client: Client, system: str | None, options: Options, timeout_s: float | None, printing: _Printing
) -> None:
    with suppress(ImportError):  # some builds of Python have none
        import readline  # noqa: F401 - gives input() a line editor with a history
    click.echo(f"{client.snapshot().model.name}. {_HELP}", err=True)
    history = _system(system)
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        command, _, rest = line.partition(" ")
        if command in ("/exit", "/quit"):
            return
        if command == "/reset":
            history = [turn for turn in history if turn[0] == "system"]
        elif command == "/system":
            history = _system(rest)
        elif command.startswith("/"):
            click.echo(_HELP, err=True)
        elif line:
            history = _turn(client, [*history, ("user", line)], options, timeout_s, printing)


def _turn(
    client: Client, history: list[Message], options: Options, timeout_s: float | None, printing: _Printing
) -> list[Message]:
    """The history with the answer, or without the question if there was none."""
    try:
        answer = printing.show(client.generate(messages=history, options=options, timeout_s=timeout_s))
    except KeyboardInterrupt:
        click.echo()
        return history[:-1]
    except ClientError as error:
        click.echo(f"edgeqwen: {error}", err=True)
        return history[:-1]
    return [*history, ("assistant", answer)]


@main.command()
@click.argument("prompt", required=False)
@click.option("--token-ids", help="Token ids instead of text, such as 1,2,3.")
@click.option("--ignore-eos", is_flag=True, help="Go on through end-of-text tokens.")
@_generation_options
@click.pass_obj
def generate(target: str, /, prompt: str | None, token_ids: str | None, **flags: Any) -> None:
    """Continue a raw PROMPT (or what is piped in), without the chat template."""
    options, timeout_s, printing = _split(flags)
    ids = _ids(token_ids) if token_ids is not None else None
    if ids is not None and prompt is not None:
        raise click.UsageError("give PROMPT or --token-ids, not both")
    if ids is None and prompt is None:
        if _at_terminal():
            raise click.UsageError("there is no prompt: give one, pipe one in, or use --token-ids")
        prompt = _piped()
    with Client(target) as client:
        printing.show(client.generate(prompt=prompt, token_ids=ids, options=options, timeout_s=timeout_s))


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of numbers", param_hint="--token-ids") from error


@main.command()
@click.argument("text", required=False)
@click.option("--chat", is_flag=True, help="As a user's message, with the chat template around it.")
@click.option("--count", is_flag=True, help="Only how many they are.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def tokenize(target: str, text: str | None, chat: bool, count: bool, as_json: bool) -> None:
    """The tokens of TEXT, or of what is piped in."""
    if text is None:
        if _at_terminal():
            raise click.UsageError("there is no text: give some, or pipe it in")
        text = _piped()
    messages, prompt = ([("user", text)], None) if chat else (None, text)
    with Client(target) as client:
        ids = None if count else client.tokenize(messages=messages, prompt=prompt)
        total = client.count_tokens(messages=messages, prompt=prompt) if ids is None else len(ids)
    if as_json:
        click.echo(json.dumps({"count": total} | ({} if ids is None else {"token_ids": ids})))
    else:
        click.echo(total if ids is None else " ".join(map(str, ids)))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="The snapshot as one JSON object.")
@click.pass_obj
def status(target: str, as_json: bool) -> None:
    """Health, model, load and memory of the daemon."""
    with Client(target) as client:
        health, snapshot = client.health(), client.snapshot()
    if as_json:
        fields = MessageToDict(snapshot, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        click.echo(json.dumps({"health": health, **fields}))
        return
    model, engine, process, machine = snapshot.model, snapshot.engine, snapshot.process, snapshot.machine
    table = Table(show_header=False, box=None)
    table.add_row("health", health + (", draining" if engine.draining else ""))
    table.add_row("model", f"{model.name} ({model.variant}, {model.precision}, {model.provider})")
    if model.adapters:
        table.add_row("adapters", ", ".join(model.adapters))
    table.add_row("up", f"{snapshot.uptime_s:.0f} s")
    table.add_row("running", f"{engine.running} of {engine.slots}, {engine.queue_depth} of {engine.queue_limit} wait")
    table.add_row("speed", f"{engine.completion_tokens_per_second:.1f} tokens/s in the last {engine.window_s:.0f} s")
    if engine.HasField("time_to_first_token_p50_ms"):
        first, last = engine.time_to_first_token_p50_ms, engine.time_to_first_token_p95_ms
        table.add_row("first token", f"{first:.0f} ms at the median, {last:.0f} ms at 95 %")
    held = (engine.kv_used_tokens + engine.kv_warm_tokens) * engine.kv_bytes_per_token
    shares = f"{engine.kv_used_tokens} in use + {engine.kv_warm_tokens} warm of {engine.kv_budget_tokens} tokens"
    table.add_row("KV cache", f"{shares}, {held / 1e6:.0f} MB")
    table.add_row("memory", f"{process.rss_bytes / 1e6:.0f} MB, of it weights {model.weights_bytes / 1e6:.0f} MB")
    table.add_row("machine", f"{machine.cpu_busy:.0%} busy, {machine.memory_available_bytes / 1e6:.0f} MB free")
    for reading in machine.temperatures:
        table.add_row(reading.sensor, f"{reading.celsius:.1f} C")
    Console(markup=False, emoji=False).print(table)  # names are shown as they are, brackets included


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: `source <(edgeqwen completion bash)`."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "edgeqwen", "_EDGEQWEN_COMPLETE").source())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def version(as_json: bool) -> None:
    """Print the version of this command."""
    number = installed_version("edgeqwen")
    click.echo(json.dumps({"version": number}) if as_json else number)


if __name__ == "__main__":
    main(prog_name="edgeqwen")
