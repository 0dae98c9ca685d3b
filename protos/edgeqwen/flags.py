"""The flags of a generation, and what they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .connection import Connection, checked_target, default_target
from .messages import Options, Tool
from .printing import Printing

Command = Callable[..., None]

_LONGEST_TIMEOUT_S = 366 * 86_400.0


def connection_options(command: Command) -> Command:
    """Adds the flags of where the daemon is and who calls, which it gets as `connection`."""

    @wraps(command)
    def connected(
        target: str, ca: Path | None, certificate: Path | None, key: Path | None, token: str | None, **rest: Any
    ) -> None:
        if target.startswith("unix:"):  # what the environment has is for boards elsewhere
            source = click.get_current_context().get_parameter_source
            named = {"ca": ca, "certificate": certificate, "key": key}
            ca, certificate, key = (
                None if source(name) is ParameterSource.ENVIRONMENT else file for name, file in named.items()
            )
        try:
            connection = Connection(target, ca, certificate, key, token)
            connection.require_files()
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        command(connection=connection, **rest)

    return _TARGET(identity_options(connected))


def identity_options(command: Command) -> Command:
    """Adds the flags of who calls, which it gets as `ca`, `certificate`, `key` and `token`."""

    @wraps(command)
    def known(token_file: Path | None, **rest: Any) -> None:
        command(token=_token(token_file), **rest)

    return _with(_IDENTITY, known)


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise click.UsageError(f"cannot read the token in {file}: {reason}") from error


def generation_options(command: Command) -> Command:
    """Adds the flags of every generation, which `split` takes apart."""
    return _with(_GENERATION, command)


def chat_options(command: Command) -> Command:
    """The same, with those that only a conversation has."""
    return _with([*_CHAT, *_GENERATION], command)


retry_option = click.option(
    "--retry",
    "retries",
    type=click.IntRange(0, 1000),
    default=0,
    help="Where the daemon has no room now, ask again so often, when it says.",
)


def split(flags: dict[str, Any]) -> tuple[Options, float | None, Printing]:
    """What to ask for, how long to wait for it in seconds, and how to show it. Raises UsageError."""
    timeout_s = flags.pop("timeout_s")
    printing = Printing(flags.pop("stats"), flags.pop("as_json"))
    if sum(flags[name] is not None for name in ("json_schema", "regex", "grammar")) > 1:
        raise click.UsageError("give at most one of --json-schema, --regex and --grammar")
    return Options(**flags), timeout_s, printing


def _target(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return checked_target(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


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


def _tools(ctx: click.Context, param: click.Parameter, file: str | None) -> tuple[Tool, ...]:
    text = _text_of(ctx, param, file)
    if text is None:
        return ()
    try:
        given = json.loads(text)
        return tuple(_tool(each) for each in (given if isinstance(given, list) else [given]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise click.BadParameter(f"{file} is not a JSON list of tools with a name each: {error}") from error


def _tool(given: Mapping[str, Any]) -> Tool:
    """Also as the OpenAI API has it, in a "function"."""
    tool = given.get("function", given)
    return Tool(str(tool["name"]), str(tool.get("description", "")), tool.get("parameters"))


def _with(options: list[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def _values(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    if not all(equals for _, equals, _ in pairs):
        raise click.BadParameter("looks like language=French: a value's name, and what it is to be")
    return {name: value for name, _, value in pairs}


_TARGET: Callable[[Command], Command] = click.option(
    "--target",
    default=default_target,
    callback=_target,
    help="unix:PATH, HOST:PORT or https://HOST:PORT. Default: EDGEQWEN_TARGET or the system's socket.",
)
_IDENTITY: list[Callable[[Command], Command]] = [
    click.option(
        "--ca", type=click.Path(path_type=Path), envvar="EDGEQWEN_CA", help="Who signed the daemon's certificate (PEM)."
    ),
    click.option(
        "--certificate", type=click.Path(path_type=Path), envvar="EDGEQWEN_CERTIFICATE", help="Who you are (PEM)."
    ),
    click.option("--key", type=click.Path(path_type=Path), envvar="EDGEQWEN_KEY", help="The certificate's key (PEM)."),
    click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        envvar="EDGEQWEN_TOKEN_FILE",
        help="Or who you are: a file with a token. Also EDGEQWEN_CA, EDGEQWEN_TOKEN_FILE and so on.",
    ),
]
_CHAT: list[Callable[[Command], Command]] = [
    click.option("--preset", default="", help="A prompt preset of the package; `edgeqwen status` lists them."),
    click.option(
        "--preset-value",
        "preset_values",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_values,
        help="A value of the preset; may be given again.",
    ),
    click.option(
        "--thinking", type=click.Choice(["auto", "on", "off"]), default="auto", help="Reason before the answer."
    ),
    click.option("--thinking-budget", "thinking_budget_tokens", type=int, help="At most so many tokens of reasoning."),
    click.option("--tools", callback=_tools, metavar="FILE", help="JSON list of functions that the model may call."),
    click.option("--require-tool-call", is_flag=True, help="The answer calls one of them at least."),
]
_GENERATION: list[Callable[[Command], Command]] = [
    click.option("--model", help="Which of the loaded models; `edgeqwen models` lists them. Default: the default one."),
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
    click.option("-n", "n", type=int, help="So many answers; their prompt is computed once."),
    click.option("--deterministic/--no-deterministic", default=None, help="The same whatever else the daemon does."),
    click.option("--seed", type=int, help="The same seed gives the same answer."),
    click.option("--ignore-eos", is_flag=True, help="Go on through end-of-text tokens."),
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
