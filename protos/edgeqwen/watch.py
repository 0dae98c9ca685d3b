"""`edgeqwen watch`: what the daemon and its machine do, live."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import click
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.live import Live

from .client import Client, Connection, ServerUnavailable
from .history import History
from .v1 import telemetry_pb2 as pb
from .watch_view import WatchView, line_of

RETRY_S = 1.0


@click.command()
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, help="Seconds between two. Default: 1")
@click.option("--json", "as_json", is_flag=True, help="Each snapshot as a line of JSON.")
@click.option("--once", is_flag=True, help="One snapshot, and leave.")
@click.pass_obj
def watch(target: Connection, interval: float, as_json: bool, once: bool) -> None:
    """Load, speed, heat and power of the daemon and its machine, live. Ctrl-C leaves.

    On a terminal with what was before, elsewhere a line a snapshot. A daemon that restarts is waited for.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    interval_ms = round(interval * 1000)
    with Client(target) as client:
        if once:
            seen: Iterator[pb.Snapshot | str] = iter([client.snapshot()])
        else:
            seen = snapshots(client, interval_ms)
        try:
            if as_json:
                _print_json(seen)
            elif console.is_terminal and not console.is_dumb_terminal and not once:
                _show(seen, console, interval_ms)
            elif once and console.is_terminal:
                history = History()
                for snapshot in seen:
                    assert isinstance(snapshot, pb.Snapshot)
                    history.add(snapshot)
                console.print(WatchView(history, interval_ms))
            else:
                _print_lines(seen)
        except KeyboardInterrupt:
            return


def snapshots(
    client: Client, interval_ms: int, wait: Callable[[float], None] = time.sleep
) -> Iterator[pb.Snapshot | str]:
    """What comes; while nothing does, why. Raises ServerUnavailable only if there was no daemon to begin with."""
    found = False
    while True:
        try:
            for snapshot in client.watch(interval_ms=interval_ms):
                found = True
                yield snapshot
            lost = f"{client.target}: the daemon ended the watch"
        except ServerUnavailable as error:
            if not found:
                raise
            lost = str(error)
        yield lost
        wait(RETRY_S)


def json_of(snapshot: pb.Snapshot) -> str:
    """As `edgeqwen status --json` has it: names of the proto, 64-bit integers as text, what is unset left out."""
    fields = MessageToDict(snapshot, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return json.dumps(fields, ensure_ascii=False)


def _print_json(seen: Iterator[pb.Snapshot | str]) -> None:
    lost = ""
    for each in seen:
        if isinstance(each, str):
            lost = _tell(each, lost)
        else:
            lost = ""
            click.echo(json_of(each))


def _print_lines(seen: Iterator[pb.Snapshot | str]) -> None:
    history, lost, restarts = History(), "", 0
    for each in seen:
        if isinstance(each, str):
            lost = _tell(each, lost)
            continue
        point = history.add(each)
        if history.restarts > restarts:
            click.echo("edgeqwen: the daemon has restarted", err=True)
        lost, restarts = "", history.restarts
        click.echo(line_of(each, point))


def _tell(reason: str, told: str) -> str:
    """Says once why nothing comes."""
    if not told:
        click.echo(f"edgeqwen: {reason}; trying again", err=True)
    return reason


def _show(seen: Iterator[pb.Snapshot | str], console: Console, interval_ms: int) -> None:
    history = History()
    with Live(WatchView(history, interval_ms), console=console, screen=True, auto_refresh=False) as live:
        for each in seen:
            lost = f"{each}; trying again" if isinstance(each, str) else ""
            if isinstance(each, pb.Snapshot):
                history.add(each)
            live.update(WatchView(history, interval_ms, lost), refresh=True)
