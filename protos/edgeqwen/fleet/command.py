"""`edgeqwen fleet`: many boards side by side."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress
from rich.text import Text

from ..flags import Command, identity_options
from .board import Inventory, InventoryError
from .finding import Finding, State, Totals, worst_first
from .hosts import Identity
from .inventory import read_inventory
from .survey import survey
from .targets import targets as made_targets
from .targets import write
from .view import as_json, changes, printable, table, totals_text

_WIDE = 10_000
"""Columns of what goes elsewhere than to a terminal: there a row is a line."""


def _of_inventory(command: Command) -> Command:
    """Adds the flags by which a command gets its `inventory`."""

    @wraps(command)
    def reading(
        inventory: str,
        group: str | None,
        ca: Path | None,
        certificate: Path | None,
        key: Path | None,
        token: str | None,
        **rest: Any,
    ) -> None:
        try:
            found = read_inventory(inventory, Identity(ca, certificate, key, token))
            chosen = found if group is None else found.of_group(group)
        except InventoryError as error:
            raise click.UsageError(printable(str(error), 2000)) from error
        if found.left_out:
            names = ", ".join(found.left_out[:5]) + (", ..." if len(found.left_out) > 5 else "")
            message = f"{len(found.left_out)} hosts have no edgeqwen_target and are left out: {names}"
            click.echo(f"edgeqwen: {printable(message)}", err=True)
        command(inventory=chosen, **rest)

    return _INVENTORY(_GROUP(identity_options(reading)))


_INVENTORY: Callable[[Command], Command] = click.option(
    "-i",
    "--inventory",
    required=True,
    envvar="EDGEQWEN_INVENTORY",
    metavar="FILE",
    help="Ansible's inventory, what `ansible-inventory --list` prints (- is standard input), or a list of targets in a"
    " .txt file. Also EDGEQWEN_INVENTORY.",
)
_GROUP: Callable[[Command], Command] = click.option("--group", help="Only the boards of this group.")


@click.group(
    epilog="""\b
Examples:
  edgeqwen fleet status -i hosts.yml
  edgeqwen fleet status -i hosts.yml --group site_a --watch
  edgeqwen fleet status -i hosts.yml --ca fleet-ca.pem --token-file operator.token --json
  edgeqwen fleet targets -i hosts.yml -o /etc/prometheus/edgeqwen.json

\b
A host of the inventory is a board if it has the variable edgeqwen_target, such as
https://{{ ansible_host }}:50443. edgeqwen_client_ca, edgeqwen_client_certificate,
edgeqwen_client_key and edgeqwen_client_token_file count before the flags.""",
)
def fleet() -> None:
    """Many boards side by side."""


@fleet.command()
@_of_inventory
@click.option("--parallel", type=click.IntRange(1, 1024), default=64, show_default=True, help="Boards at a time.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 3600, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds for each board.",
)
@click.option("--problems", is_flag=True, help="Show only boards that are not well.")
@click.option("--watch", is_flag=True, help="Again and again; Ctrl-C leaves.")
@click.option(
    "--interval", type=click.FloatRange(1, 3600), default=10.0, show_default=True, help="With --watch, in seconds."
)
@click.option("--json", "as_object", is_flag=True, help="As one JSON object; with --watch, one a line.")
def status(
    inventory: Inventory,
    parallel: int,
    timeout_s: float,
    problems: bool,
    watch: bool,
    interval: float,
    as_object: bool,
) -> None:
    """How all boards are, the worst first.

    A board is serving, degraded (it serves, but a check of `edgeqwen health` is not well), unknown (it does not tell
    us), not serving, or unreachable.

    \b
    Exit status: 0 all boards serve as they should, 1 some do not, 2 usage, or an inventory that cannot be used.
    """

    def ask(progress_on: Console | None = None) -> list[Finding]:
        return asyncio.run(_ask_all(inventory, parallel, timeout_s, progress_on))

    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    if watch:
        with suppress(KeyboardInterrupt):
            seen = _rounds(ask, interval)
            _watch_json(seen, problems) if as_object else _watch(seen, console, problems)
        return
    errors = Console(stderr=True)
    findings = ask(errors if errors.is_terminal else None)
    if as_object:
        _print_json(findings, problems)
    else:
        _print(findings, console, problems)
    sys.exit(0 if Totals.of(findings).well else 1)


async def _ask_all(inventory: Inventory, parallel: int, timeout_s: float, progress_on: Console | None) -> list[Finding]:
    boards, findings = inventory.boards, []
    with Progress(console=progress_on, transient=True, disable=progress_on is None) as progress:
        asking = progress.add_task(f"asking {len(boards)} boards", total=len(boards))
        async for finding in survey(boards, parallel=parallel, timeout_s=timeout_s):
            findings.append(finding)
            progress.advance(asking)
    return worst_first(findings)


def _rounds(ask: Callable[[], list[Finding]], interval_s: float) -> Iterator[list[Finding]]:
    """What is found, again and again; a round that takes longer than the interval is followed by the next at once."""
    while True:
        began_s = time.monotonic()
        yield ask()
        time.sleep(max(0.0, began_s + interval_s - time.monotonic()))


def _shown(findings: Sequence[Finding], problems: bool) -> list[Finding]:
    return [each for each in findings if not problems or each.state is not State.SERVING]


def _print_json(findings: Sequence[Finding], problems: bool) -> None:
    click.echo(json.dumps(as_json(findings, _shown(findings, problems))))


def _print(findings: Sequence[Finding], console: Console, problems: bool) -> None:
    if shown := _shown(findings, problems):
        console.print(table(shown, console.width if console.is_terminal else None))
        console.print()
    console.print(totals_text(findings))


def _watch_json(seen: Iterable[list[Finding]], problems: bool) -> None:
    for findings in seen:
        _print_json(findings, problems)


def _watch(seen: Iterable[list[Finding]], console: Console, problems: bool) -> None:
    """The worst boards on a terminal; elsewhere a line a round, after those of boards that are not as they were."""
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for findings in seen:
                rows = table(_shown(findings, problems), console.width, console.height - 4)
                below = Text(f"{datetime.now():%H:%M:%S}; Ctrl-C leaves", style="dim")
                live.update(Group(rows, Text(), totals_text(findings), below), refresh=True)
        return
    before: list[Finding] = []
    for findings in seen:
        for line in changes(before, findings):
            click.echo(line)
        click.echo(f"{datetime.now():%H:%M:%S} {printable(Totals.of(findings).line)}")
        before = findings


@fleet.command()
@_of_inventory
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it there if it differs.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=9465,
    show_default=True,
    help="Where Prometheus finds a board that has no edgeqwen_metrics_target: here, at the host of its daemon.",
)
@click.option("--json", "as_object", is_flag=True, help="With -o: what was done, as one JSON object.")
def targets(inventory: Inventory, output: Path | None, port: int, as_object: bool) -> None:
    """The boards as a file of targets for Prometheus's file_sd_configs, with labels board, group and profile.

    The file is replaced as a whole, and left alone if nothing has changed, so this can run every few minutes.

    \b
    Exit status: 0 done, or nothing to do; 1 the file cannot be written, 2 usage, or an inventory that cannot be used.
    """
    content, left_out = made_targets(inventory, port)
    if left_out:
        names = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        message = f"{len(left_out)} boards have a socket and no edgeqwen_metrics_target, and are left out: {names}"
        click.echo(f"edgeqwen: {printable(message)}", err=True)
    if output is None:
        click.echo(content, nl=False)
        return
    try:
        changed = write(output, content)
    except OSError as error:
        click.echo(f"edgeqwen: cannot write {output}: {error.strerror}", err=True)
        sys.exit(1)
    boards = len(inventory.boards) - len(left_out)
    if as_object:
        click.echo(json.dumps({"changed": changed, "file": str(output), "boards": boards, "left_out": left_out}))
    else:
        click.echo(f"{output}: {boards} boards{'' if changed else ', as before'}")
