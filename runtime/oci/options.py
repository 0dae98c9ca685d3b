"""The options of commands that reach registries. Loaded also where only the client is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from .settings import Settings

Command = Callable[..., None]

_PASSWORD = "EDGEQWEN_REGISTRY_PASSWORD"

_REACHING = (
    click.option(
        "--registries",
        type=click.Path(path_type=Path),
        envvar="EDGEQWEN_REGISTRIES",
        help="Settings for registries. Default: /etc/edgeqwen/registries.yaml, if it is there.",
    ),
    click.option("--username", envvar="EDGEQWEN_REGISTRY_USERNAME", help="Default: as Docker's config.json has it."),
    click.option(
        "--password-file",
        type=click.File(encoding="utf-8"),
        envvar="EDGEQWEN_REGISTRY_PASSWORD_FILE",
        help="With the password in its first line; - is standard input. Or set EDGEQWEN_REGISTRY_PASSWORD.",
    ),
    click.option("--auth-file", type=click.Path(path_type=Path), help="As Docker's config.json, and before it."),
    click.option("--ca-file", type=click.Path(path_type=Path), help="Authorities to trust beside the system's."),
    click.option("--proxy", help="As http://HOST:PORT. Default: HTTPS_PROXY, HTTP_PROXY and NO_PROXY."),
    click.option(
        "--plain-http/--no-plain-http", default=None, help="Without TLS. Default: only for a registry on this machine."
    ),
    click.option("--retries", type=click.IntRange(0, 1000), default=5, help="Without any progress. Default: 5"),
)


def _rate(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    from .rate import parse_rate

    try:
        return None if value is None else parse_rate(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_PULLING = (
    click.option(
        "--mirror", "mirrors", multiple=True, help="[http://]HOST[:PORT][/PREFIX] to ask first; may be given again."
    ),
    click.option("--limit-rate", callback=_rate, help="Bytes a second at most: 500K, 2M."),
)


def reaching_options(command: Command) -> Command:
    """Adds the flags of how a registry is reached, which `settings_of` takes."""
    return with_options(_REACHING, command)


def pulling_options(command: Command) -> Command:
    """The same, with those that are about fetching."""
    return with_options((*_REACHING, *_PULLING), command)


def settings_of(flags: Mapping[str, Any]) -> Settings:
    """What the flags and the file of settings say; the flags count more.

    Raises ConfigError, ReferenceInvalid, and click.UsageError.
    """
    from .patience import Patience
    from .reference import parse_mirror
    from .settings import load_settings

    given = {key: flags[key] for key in ("proxy", "ca_file", "auth_file") if flags[key] is not None}
    if mirrors := flags.get("mirrors"):
        given["mirrors"] = tuple(map(parse_mirror, mirrors))
    if rate := flags.get("limit_rate"):
        given["bytes_per_s"] = rate
    return replace(
        load_settings(flags["registries"]),
        **given,
        credentials=_credentials(flags["username"], flags["password_file"]),
        plain_http=flags["plain_http"],
        patience=Patience(flags["retries"]),
    )


def _credentials(username: str | None, password_file: TextIO | None) -> tuple[str, str] | None:
    """Of a file or of the environment: what is on a command line, others see."""
    try:
        password = password_file.readline().rstrip("\r\n") if password_file else os.environ.get(_PASSWORD)
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"cannot read the password: {error}") from error
    if username is None and not password_file:
        return None
    if username is None or not password:
        raise click.UsageError(f"--username and --password-file (or {_PASSWORD}) belong together")
    return username, password


def with_options(options: Iterable[Callable[[Command], Command]], command: Command) -> Command:
    """Adds them, in the order in which help shows them."""
    for option in reversed(tuple(options)):
        command = option(command)
    return command
