"""What the commands on packages of this device share. Loaded also where only the client is installed."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..oci.options import with_options

if TYPE_CHECKING:
    from ..configuration.store_settings import StoreSettings
    from ..store.state import Installed
    from ..store.store import Store

Command = Callable[..., None]

_LONGEST_WHY = 200

EXIT_STATUS = """\b
Exit status: 0 done, or nothing to do, 1 error, 2 usage, 3 settings, 4 no such package, damaged, or not for this device,
5 not trusted, 6 older than was committed here, 7 failed its canary or its trial, 69 no daemon or registry answers,
75 try again later, 77 not allowed."""

store_option = click.option(
    "--store",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="EDGEQWEN_STORE",
    help="Folder of packages. Default: as edgeqwend's configuration has it, else /var/lib/edgeqwen/store",
)
json_option = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")


def _why(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if len(value) > _LONGEST_WHY or not value.isprintable():
        raise click.BadParameter(f"is one line of at most {_LONGEST_WHY} characters")
    return value


why_option = click.option("--why", default="", callback=_why, help="For the history.")
_SWITCHING = (
    click.option("--allow-downgrade", is_flag=True, help="Take a version below the highest that was ever committed."),
    click.option("--again", is_flag=True, help="Activate a package once more that failed here."),
    click.option(
        "--wait",
        "wait_s",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Of an activation: return when it is committed, or fail when it is rolled back.",
    ),
)


def switching_options(command: Command) -> Command:
    """Adds the flags of an activation."""
    return with_options(_SWITCHING, command)


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    from ..oci.rate import parse_bytes

    try:
        return None if value is None else parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


budget_option = click.option(
    "--budget",
    "budget_bytes",
    callback=_bytes,
    metavar="BYTES",
    help="What packages may take, such as 2G, before those in no slot go. Default: as configured, else a quarter of"
    " the disk",
)


def budget(settings: StoreSettings, said_bytes: int | None) -> int:
    """In bytes: what was said, else what is configured, else a share of the disk."""
    from ..store.collect import budget_of

    return budget_of(settings.path, settings.budget_bytes if said_bytes is None else said_bytes)


def open_store(folder: Path | None) -> tuple[Store, StoreSettings]:
    """The one that is meant. Raises ConfigError, and ClickException where the runtime is not installed."""
    try:
        from ..store.store import Store
        from .place import store_settings
    except ImportError as error:
        message = f"packages need {error.name}, which is not installed: pip install 'edgeqwen[runtime,oci,trust]'"
        raise click.ClickException(message) from error
    settings = store_settings(folder, os.environ)
    return Store(settings.path), settings


def who() -> str:
    """Who runs this, for the history."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    asked = os.environ.get("SUDO_USER", "")
    return f"{name}, for {asked[:64]}" if asked and asked.isprintable() and asked != name else name


def described(package: Installed) -> dict[str, str]:
    """What programs want to know of a package of the store."""
    return {key: getattr(package, key) for key in ("name", "version", "variant", "digest", "signer")} | {
        "package": package.folder
    }
