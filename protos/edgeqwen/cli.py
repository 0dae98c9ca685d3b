"""`edgeqwen`: talk to a daemon from a shell or a script."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from importlib.metadata import EntryPoints, distribution
from importlib.metadata import version as installed_version
from typing import Any, TextIO

import click
from click.shell_completion import get_completion_class

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when gRPC is imported; what else it has to say, our line says

from .batch import print_answers, read_lines
from .client import (
    Client,
    ClientError,
    Connection,
    DeadlineExceeded,
    InvalidRequest,
    Message,
    NotFound,
    Options,
    PermissionDenied,
    ServerUnavailable,
    TryAgain,
    Unauthenticated,
)
from .flags import chat_options, connection_options, generation_options, retry_option, split
from .fleet.command import fleet
from .health_command import health, power
from .printing import Printing
from .status import models, status
from .watch import watch

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_INTERRUPTED = 130  # as shells have it

# Where sysexits.h and timeout(1) have a number for it, theirs.
_EXIT_CODES: tuple[tuple[type[ClientError], int], ...] = (
    (InvalidRequest, 3),
    (NotFound, 4),
    (ServerUnavailable, 69),
    (TryAgain, 75),
    (Unauthenticated, 77),
    (PermissionDenied, 77),
    (DeadlineExceeded, 124),
    (ClientError, 1),
)


def _entry_points() -> EntryPoints:
    return distribution("edgeqwen").entry_points.select(group="edgeqwen.commands")


class _Group(click.Group):
    """A group whose commands end with one line and the error's exit status; Ctrl-C needs no line.

    The runtime's own commands are among them, though the client knows nothing of the runtime: the entry points of this
    distribution name them. Those of others are not looked at.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_entry_points().names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in _entry_points().names:
            command = _entry_points()[cmd_name].load()
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as error:
            click.echo(f"edgeqwen: {error}", err=True)
            sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
        except KeyboardInterrupt:
            click.echo(err=True)
            sys.exit(_INTERRUPTED)


@click.group(
    cls=_Group,
    context_settings=_SETTINGS,
    epilog="""\b
Examples:
  edgeqwen chat "Why is the pump vibrating?"
  edgeqwen chat                            # a conversation; /help inside
  dmesg | tail -20 | edgeqwen chat "What went wrong here?"
  edgeqwen batch questions.jsonl --max-tokens 64 > answers.jsonl
  edgeqwen generate "Once upon a time" --max-tokens 64 --seed 7 --temperature 0.8
  edgeqwen status --json
  edgeqwen watch                           # live, with what was before
  edgeqwen health                          # what is not well, and what to do
  edgeqwen fleet status -i hosts.yml       # many boards side by side
  edgeqwen models load qwen3-0.6b-int4 --default
  edgeqwen install oci://registry.example/edge/qwen:1.2.0 --activate

\b
Exit status: 0 done, 1 error, 2 usage, 3 invalid request, 4 no such model, 69 no daemon answers,
75 try again later, 77 not allowed, 124 timeout, 130 Ctrl-C.""",
)
@connection_options
@click.version_option(package_name="edgeqwen")
@click.pass_context
def main(ctx: click.Context, connection: Connection) -> None:
    """Talk to an edgeqwen daemon."""
    logging.getLogger("grpc").addHandler(logging.NullHandler())  # what it writes to stderr, our errors say in a line
    ctx.obj = connection


@main.command()
@click.argument("message", required=False)
@click.option("--system", help="Instructions for the model.")
@retry_option
@chat_options
@click.pass_obj
def chat(target: Connection, /, message: str | None, system: str | None, retries: int, **flags: Any) -> None:
    """Ask the model. Without MESSAGE, on a terminal, hold a conversation. What is piped in is added to MESSAGE."""
    options, timeout_s, printing = split(flags)
    conversation = message is None and _at_terminal()
    piped = "" if _at_terminal() else _piped().strip()
    content = "\n\n".join(part for part in (message, piped) if part)
    if not (conversation or content):
        raise click.UsageError("there is no message: give one, or pipe one in")
    with Client(target, retries=retries) as client:
        if conversation:
            if options.n is not None:
                raise click.UsageError("-n is for a MESSAGE: a conversation goes on from one answer")
            _converse(client, system, options, timeout_s, printing)
            return
        messages = [*_system(system), ("user", content)]
        events = client.generate(messages=messages, options=options, timeout_s=timeout_s)
        printing.show(events) if options.n is None else printing.show_samples(events)


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
    client: Client, system: str | None, options: Options, timeout_s: float | None, printing: Printing
) -> None:
    with suppress(ImportError):  # some builds of Python have none
        import readline  # noqa: F401 - gives input() a line editor with a history
    click.echo(f"{_name_of_model(client, options)}. {_HELP}", err=True)
    history = instructions = _system(system)
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
            history = instructions
        elif command == "/system":
            history = instructions = _system(rest)
        elif command.startswith("/"):
            click.echo(_HELP, err=True)
        elif line:
            history = _turn(client, [*history, ("user", line)], options, timeout_s, printing)


def _name_of_model(client: Client, options: Options) -> str:
    return options.model or next((each.model.name for each in client.snapshot().models), "no model is loaded")


def _turn(
    client: Client, history: list[Message], options: Options, timeout_s: float | None, printing: Printing
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
    return [*history, answer.turn]


@main.command()
@click.argument("prompt", required=False)
@click.option("--token-ids", help="Token ids instead of text, such as 1,2,3.")
@retry_option
@generation_options
@click.pass_obj
def generate(target: Connection, /, prompt: str | None, token_ids: str | None, retries: int, **flags: Any) -> None:
    """Continue a raw PROMPT (or what is piped in), without the chat template."""
    options, timeout_s, printing = split(flags)
    ids = _ids(token_ids) if token_ids is not None else None
    if ids is not None and prompt is not None:
        raise click.UsageError("give PROMPT or --token-ids, not both")
    if ids is None and prompt is None:
        if _at_terminal():
            raise click.UsageError("there is no prompt: give one, pipe one in, or use --token-ids")
        prompt = _piped()
    with Client(target, retries=retries) as client:
        events = client.generate(prompt=prompt, token_ids=ids, options=options, timeout_s=timeout_s)
        printing.show(events) if options.n is None else printing.show_samples(events)


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of numbers", param_hint="--token-ids") from error


@main.command()
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
@chat_options
@click.pass_obj
def batch(target: Connection, /, file: TextIO, **flags: Any) -> None:
    """Answer each line of FILE, or of what is piped in, and print the answers as they end, one JSON object a line.

    A line is {"messages": [{"role": "user", "content": ...}, ...]} or {"prompt": ...}. It may have an "id", which its
    answer has too, and "options" such as {"max_tokens": 64}, which win over the flags given here.
    """
    options, timeout_s, _ = split(flags)
    lines = read_lines(file, options)
    with Client(target) as client:
        failed = print_answers(lines, client.generate_batch([line.ask for line in lines], timeout_s=timeout_s))
    if failed:
        sys.exit(1)


@main.command()
@click.argument("text", required=False)
@click.option("--chat", is_flag=True, help="As a user's message, with the chat template around it.")
@click.option("--count", is_flag=True, help="Only how many they are.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def tokenize(target: Connection, text: str | None, chat: bool, count: bool, as_json: bool) -> None:
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


main.add_command(fleet)
main.add_command(health)
main.add_command(power)
main.add_command(status)
main.add_command(models)
main.add_command(watch)


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
