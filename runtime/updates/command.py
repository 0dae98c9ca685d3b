"""`edgeqwen install`, `activate`, `rollback` and `commit`, entry points `edgeqwen.commands` of pyproject.toml.

Loaded also where only the client is installed: what the runtime needs is imported when a command runs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeqwen.client import Connection, Refused

from ..oci.options import pulling_options, settings_of
from ..one_line import note, one_line_errors
from ..progress import showing_bytes
from ..trust.command import trust_option
from .options import (
    EXIT_STATUS,
    budget,
    budget_option,
    described,
    json_option,
    open_store,
    store_option,
    switching_options,
    who,
    why_option,
)

if TYPE_CHECKING:
    from ..store.store import Store
    from .installing import Installation
    from .switching import Switch, Switched

# What the daemon refuses, with the exit status that the same has here.
_REFUSED = {"CANARY_FAILED": 7, "DOWNGRADE_REFUSED": 6, "PACKAGE_UNUSABLE": 4, "TOO_HOT": 75, "STORE_BUSY": 75}


@click.command(
    epilog=f"""\b
Examples:
  edgeqwen install oci://registry.example/edge/qwen:1.2.0
  edgeqwen install oci://registry.example/edge/qwen:1.2.0 --activate --wait 900
  edgeqwen install oci-layout:/media/usb:qwen-1.2.0 --activate
  edgeqwen install ./qwen3-0.6b-int4.ortpackage --allow-unsigned
  edgeqwen install oci://registry.example/edge/qwen:1.2.0 --repair

\b
Its signature is looked at before anything else is fetched, and every byte is compared with its digest. What was cut
goes on when the same is called again. Nothing else serves before `activate`.
{EXIT_STATUS}"""
)
@click.argument("reference")
@click.option("--variant", help="Default: the one whose profile fits this device.")
@click.option("--profile", help="Instead of the profiles that `edgeqwen detect` finds.")
@trust_option
@click.option("--allow-unsigned", is_flag=True, help="Take what nobody signed whom this machine trusts.")
@click.option("--repair", is_flag=True, help="Read every file of a package that is there, and replace damaged ones.")
@click.option("--activate", "then_activate", is_flag=True, help="Then have it serve, as `edgeqwen activate` does.")
@switching_options
@budget_option
@pulling_options
@store_option
@json_option
@click.pass_obj
def install(
    connection: Connection, /, reference: str, then_activate: bool, folder: Path | None, as_json: bool, **flags: Any
) -> None:
    """Fetch the package REFERENCE for this device, verified and whole, and put it into its store."""
    switched = None
    with one_line_errors(), _refusals():
        store, installation = _install(reference, folder, flags)
        if not as_json:
            _show_installation(installation)
        if then_activate:
            switched = _activate(connection, store, installation.package.folder, _Switching.of(flags))
    if as_json:
        click.echo(json.dumps(_installation_as_json(installation) | _and_then(installation.changed, switched)))
    elif switched:
        _show_switched(switched, "activated")


@click.command(
    epilog=f"""\b
Examples:
  edgeqwen activate                        # what was installed last
  edgeqwen activate 1.2.0 --wait 900       # or NAME, NAME-VERSION, or the folder that `edgeqwen packages` shows
  edgeqwen activate 1.1.0 --allow-downgrade

\b
The daemon loads it, tries it (the canary), and lets it serve on trial: it is committed when it has been well for a
while, and rolled back if it fails. Where no daemon runs, the next one to start does that.
{EXIT_STATUS}"""
)
@click.argument("package", default="")
@switching_options
@store_option
@json_option
@click.pass_obj
def activate(connection: Connection, /, package: str, folder: Path | None, as_json: bool, **flags: Any) -> None:
    """Have the installed PACKAGE serve, on trial."""
    with one_line_errors(), _refusals():
        store, _ = open_store(folder)
        switched = _activate(connection, store, package, _Switching.of(flags))
    _print_switched(switched, "activated", as_json=as_json)


@click.command(
    epilog=f"""\b
Examples:
  edgeqwen rollback
  edgeqwen rollback --if-active 1.2.0 --why "answers in the wrong language"

\b
The package that is left is in no slot then, so a second rollback changes nothing. The first package has nothing behind
it.
{EXIT_STATUS}"""
)
@click.option("--if-active", metavar="PACKAGE", help="Only if this serves: a version, or NAME-VERSION.")
@why_option
@store_option
@json_option
@click.pass_obj
def rollback(connection: Connection, /, if_active: str | None, why: str, folder: Path | None, as_json: bool) -> None:
    """Have the package serve again that served before."""
    with one_line_errors(), _refusals():
        store, _ = open_store(folder)
        switched = _switch(connection, store).roll_back(why, if_active=if_active)
    _print_switched(switched, "rolled back to", as_json=as_json)


@click.command(
    epilog=f"""\b
Examples:
  edgeqwen commit
  edgeqwen commit --why "looked at by hand"

\b
The daemon does it by itself after a while in which all was well.
{EXIT_STATUS}"""
)
@why_option
@store_option
@json_option
@click.pass_obj
def commit(connection: Connection, /, why: str, folder: Path | None, as_json: bool) -> None:
    """End the trial of the package that serves: it is kept."""
    with one_line_errors(), _refusals():
        store, _ = open_store(folder)
        switched = _switch(connection, store).commit(why)
    _print_switched(switched, "committed", as_json=as_json)


@dataclass(frozen=True)
class _Switching:
    """What was said of an activation."""

    allow_downgrade: bool
    again: bool
    wait_s: float | None

    @classmethod
    def of(cls, flags: dict[str, Any]) -> _Switching:
        return cls(flags["allow_downgrade"], flags["again"], flags["wait_s"])


@contextmanager
def _refusals() -> Iterator[None]:
    """What the daemon refuses ends the command as the same would without one."""
    try:
        yield
    except Refused as error:
        status = _REFUSED.get(error.reason)
        if status is None:
            raise
        note(str(error))
        sys.exit(status)


def _install(reference: str, folder: Path | None, flags: dict[str, Any]) -> tuple[Store, Installation]:
    store, place = open_store(folder)
    try:
        from ..oci.choosing import choose_for_this_device
        from ..oci.opening import open_source
        from ..oci.reference import parse_reference
        from ..store.state import Cause
        from ..trust.trust import Trust
        from .installing import Rules, install_from
    except ImportError as error:
        message = f"install needs {error.name}, which is not installed: pip install 'edgeqwen[runtime,oci,trust]'"
        raise click.ClickException(message) from error
    settings = settings_of(flags)
    source = open_source(parse_reference(reference), settings, note)
    offer = choose_for_this_device(source.offers(), flags["variant"], flags["profile"])
    rules = Rules(
        trust=lambda: Trust.read(flags["trust_folder"]),
        budget_bytes=budget(place, flags["budget_bytes"]),
        allow_unsigned=flags["allow_unsigned"],
        allow_downgrade=flags["allow_downgrade"],
        repair=flags["repair"],
    )
    cause = Cause(time.time(), who(), f"from {reference}")
    with showing_bytes(f"installing {offer}") as progress:
        done = install_from(store, source, offer, rules, cause, progress=progress, note=note)
    return store, done


def _switch(connection: Connection, store: Store) -> Switch:
    from .switching import switch_of

    return switch_of(connection, store, who(), note)


def _activate(connection: Connection, store: Store, wanted: str, said: _Switching) -> Switched:
    from ..errors import StillOnTrial
    from ..store.state import find
    from .switching import require_no_failure, wait_for_verdict

    switch, folder = _switch(connection, store), wanted
    if connection.is_here:
        state = store.read()
        package = find(state, wanted)
        folder = package.folder
        if not said.again:
            require_no_failure(state, package)
    switched = switch.activate(folder, allow_downgrade=said.allow_downgrade, note=note)
    if said.wait_s is None or switched.serving is None or not switched.serving.trial:
        return switched
    if not switched.by_daemon:
        raise StillOnTrial(f"{switched.serving} is tried when edgeqwend starts: there is nothing to wait for before")
    return replace(switched, serving=wait_for_verdict(switch, switched.serving.folder, said.wait_s))


def _installation_as_json(done: Installation) -> dict[str, Any]:
    collected = [package.folder for package in done.collected.packages] if done.collected else []
    sizes = {"fetched_bytes": done.fetched_bytes, "linked_bytes": done.linked_bytes, "kept_bytes": done.kept_bytes}
    return {**described(done.package), "path": str(done.path), **sizes, "collected": collected}


def _and_then(installed: bool, switched: Switched | None) -> dict[str, Any]:
    """Whether anything changed, of installation and activation, and what the latter was."""
    changed = installed or (switched is not None and switched.changed)
    return {"changed": changed, "activation": _as_json(switched) if switched else None}


def _as_json(switched: Switched) -> dict[str, Any]:
    serving = asdict(switched.serving) if switched.serving else None
    return {
        "changed": switched.changed,
        "serving": serving,
        "by_daemon": switched.by_daemon,
        "checks": dict(switched.checks),
    }


def _show_installation(done: Installation) -> None:
    click.echo(f"{'installed' if done.changed else 'installed before:'} {done.package}, {_signed(done)}: {done.path}")
    for package in done.collected.packages if done.collected else ():
        click.echo(f"removed {package}: it was in no slot, and the store is over its budget")


def _signed(done: Installation) -> str:
    return f"signed by {done.package.signer}" if done.package.signer else "signed by nobody who is trusted"


def _print_switched(switched: Switched, done: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_as_json(switched)))
    else:
        _show_switched(switched, done)


def _show_switched(switched: Switched, done: str) -> None:
    serving = switched.serving
    if serving is None:
        click.echo("nothing was ever activated")
        return
    what = f"{done} {serving}" if switched.changed else f"nothing to do: {serving} serves"
    click.echo(f"{what}{', on trial' if serving.trial else ''}, slot {serving.slot}")
    if switched.changed and not switched.by_daemon:
        note("no daemon runs here: edgeqwend serves it when it starts" + (", if it passes its canary" * serving.trial))
