"""`edgeqwen packages`, `history` and `collect`, entry points `edgeqwen.commands` of pyproject.toml.

They work on the store itself, whether a daemon runs or not. Loaded also where only the client is installed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ..one_line import note, one_line_errors
from .options import (
    EXIT_STATUS,
    budget,
    budget_option,
    described,
    json_option,
    open_store,
    store_option,
    who,
)

if TYPE_CHECKING:
    from ..store.state import Entry, Installed, State
    from ..store.store import Store

_DAMAGED = 4
_LOOK_S = 1.0
_WIDE = 4000


@click.command(
    epilog=f"""\b
Examples:
  edgeqwen packages
  edgeqwen packages --verify --json | jq -r '.packages[] | select(.damage != "") | .package'
  edgeqwen packages --wait 900             # until the trial has ended, one way or the other

\b
{EXIT_STATUS}"""
)
@click.option("--verify", is_flag=True, help="Read every file and compare it with its digest; exit with 4 for damage.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Until nothing is on trial any more; exit with 75 if something still is.",
)
@store_option
@json_option
def packages(verify: bool, wait_s: float | None, folder: Path | None, as_json: bool) -> None:
    """What is installed, and what of it serves."""
    with one_line_errors():
        store, _ = open_store(folder)
        state = _settled(store, wait_s or 0.0)
        found = [_looked_at(store, state, package, verify=verify) for package in state.packages.values()]
        used, free = _room(store, state)
        there = store.read().packages
        found = [each for each in found if each["package"] in there]  # what is collected meanwhile is not damaged
    if as_json:
        about = {"store": str(store.folder), "used_bytes": used, "free_bytes": free, "committed": dict(state.committed)}
        click.echo(json.dumps(about | {"packages": found}))
    else:
        _show_packages(found, used, free)
    damaged = [each for each in found if each["damage"]]
    for each in damaged:
        note(f"{each['package']}: {each['damage']}: `edgeqwen install REF --repair` mends it")
    if wait_s is not None and state.trial is not None:
        with one_line_errors():
            from .switching import still_on_trial

            raise still_on_trial(state.active_package, wait_s)
    sys.exit(_DAMAGED if damaged else 0)


@click.command(
    epilog=f"""\b
Examples:
  edgeqwen history
  edgeqwen history -n 5 --json | jq -r '.history[] | "\\(.time) \\(.event) \\(.version)"'

\b
{EXIT_STATUS}"""
)
@click.option("--lines", "-n", type=click.IntRange(min=1), default=50, show_default=True, help="The last so many.")
@store_option
@json_option
def history(lines: int, folder: Path | None, as_json: bool) -> None:
    """What happened to the packages of this device, when, why, and who did it; newest last."""
    with one_line_errors():
        store, _ = open_store(folder)
        entries = store.read().history[-lines:]
    if as_json:
        click.echo(json.dumps({"history": [_entry_as_json(entry) for entry in entries]}))
    else:
        rows = (
            (_local(entry.time_s), entry.event.replace("_", " "), _which(entry), entry.slot or "", entry.why, entry.by)
            for entry in entries
        )
        _print(("when", "what", "package", "slot", "why", "by whom"), rows, folds=("package", "why"))


@click.command(
    epilog=f"""\b
Examples:
  edgeqwen collect
  edgeqwen collect --budget 0              # all that no slot names

\b
`edgeqwen install` does it at its end, and the daemon after a commit.
{EXIT_STATUS}"""
)
@budget_option
@store_option
@json_option
def collect(budget_bytes: int | None, folder: Path | None, as_json: bool) -> None:
    """Remove packages that no slot names, the oldest first, while the store is over its budget; and old downloads."""
    with one_line_errors():
        store, place = open_store(folder)
        from ..store.collect import collect as collect_from
        from ..store.state import Cause

        most = budget(place, budget_bytes)
        with store.installing():
            done = collect_from(store, most, Cause(time.time(), who()))
    if as_json:
        removed = [described(package) for package in done.packages]
        leftovers = [str(path) for path in done.leftovers]
        said = {"changed": done.changed, "removed": removed, "leftovers": leftovers, "used_bytes": done.left_bytes}
        click.echo(json.dumps(said))
        return
    for package in done.packages:
        click.echo(f"removed {package}")
    if done.leftovers:
        click.echo(f"removed {len(done.leftovers)} leftovers of installations")
    click.echo(f"{done.left_bytes / 1e6:.0f} MB in packages, of {most / 1e6:.0f} MB")


def _settled(store: Store, seconds: float) -> State:
    """What it is when nothing is on trial any more, or after so long."""
    deadline = time.monotonic() + seconds
    while (state := store.read()).trial is not None and (left_s := deadline - time.monotonic()) > 0:
        time.sleep(min(_LOOK_S, left_s))
    return state


def _looked_at(store: Store, state: State, package: Installed, *, verify: bool) -> dict[str, Any]:
    from ..errors import PackageError
    from ..package import Package
    from ..store.tree import disk_bytes

    path, damage = store.path(package), ""
    try:
        Package.open(path, package.variant, verify=verify)
    except PackageError as error:
        damage = str(error)
    slot = next((name for name, folder in (("a", state.slots.a), ("b", state.slots.b)) if folder == package.folder), "")
    active = slot != "" and slot == state.active
    return described(package) | {
        "slot": slot,
        "active": active,
        "trial": active and state.trial is not None,
        "installed": _iso(package.installed_s),
        "bytes": disk_bytes([path]) if path.is_dir() else 0,
        "damage": damage,
    }


def _room(store: Store, state: State) -> tuple[int, int]:
    """What the packages take, and what the disk has left."""
    from ..store.tree import disk_bytes

    if not store.folder.is_dir():
        return 0, 0
    used = disk_bytes(path for package in state.packages.values() if (path := store.path(package)).is_dir())
    return used, store.disk.free_bytes(store.folder)


def _show_packages(found: Sequence[dict[str, Any]], used: int, free: int) -> None:
    rows = (
        (
            f"{each['name']} {each['version']}",
            each["variant"],
            each["slot"],
            "on trial" if each["trial"] else "serves" if each["active"] else "previous" if each["slot"] else "",
            f"{each['bytes'] / 1e6:.0f} MB",
            each["signer"] or "nobody",
            each["digest"][:12],
        )
        for each in found
    )
    headings = ("package", "variant", "slot", "", "size", "signed by", "digest")
    _print(headings, rows, folds=("package", "variant", "signed by"))
    click.echo(f"{used / 1e6:.0f} MB in all, {free / 1e6:.0f} MB free")


def _entry_as_json(entry: Entry) -> dict[str, Any]:
    about = ("event", "package", "version", "digest", "slot", "why", "by")
    return {"time": _iso(entry.time_s)} | {key: getattr(entry, key) for key in about}


def _which(entry: Entry) -> str:
    return f"{entry.package} {entry.version}".strip()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _print(headings: Sequence[str], rows: Iterable[Sequence[str]], *, folds: Collection[str]) -> None:
    """A line for each row, whatever its length; on a terminal, what is in columns `folds` is folded to fit."""
    console = Console(markup=False, emoji=False, highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=not console.is_terminal or heading not in folds)
    for row in rows:
        table.add_row(*row)
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table)
