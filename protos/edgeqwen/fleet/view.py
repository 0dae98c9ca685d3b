"""How a fleet looks: a table for people, objects for programs. Asks nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from ..watch_view import duration, size
from .finding import Finding, State, Totals

_NUMBERS = ("TEMP", "TOKENS/S", "RUN", "WAIT", "FREE")
_COLUMNS = ("BOARD", "GROUP", "STATE", "PACKAGE", "SLOT", *_NUMBERS, "UP", "DAEMON", "WHY")
_LEAST = ("DAEMON", "UP", "RUN", "FREE", "TOKENS/S", "WAIT", "GROUP", "TEMP", "SLOT", "PACKAGE")
"""Who goes first where there is no room for all."""
_ENOUGH = {"BOARD": 40, "GROUP": 20, "PACKAGE": 40, "UP": 12, "DAEMON": 12, "WHY": 24}
"""Columns of a terminal that they may take from others; WHY gets what is left, too."""
_GAP = 2
_STYLES = {State.SERVING: "green", State.DEGRADED: "yellow"}
_LONGEST = 300
"""Characters of what a board says that are shown."""


def table(findings: Sequence[Finding], width: int | None = None, rows: int | None = None) -> Table:
    """A row a board, in this order.

    Args:
        width: of the terminal. Who the board is, how it is and why come first; columns that have no room are left out.
        rows: at most so many with its head, the last of which counts the boards that are left out.
    """
    shown = findings if rows is None or len(findings) < rows else findings[: max(0, rows - 2)]
    cells = [dict(zip(_COLUMNS, _cells(finding), strict=True)) for finding in shown]
    if len(shown) < len(findings):
        more = Text(f"... and {len(findings) - len(shown)} more")
        cells.append(dict.fromkeys(_COLUMNS, Text()) | {"BOARD": more})
    widths = _widths(cells, width)
    made = Table(box=None, header_style="", pad_edge=False, padding=(0, _GAP, 0, 0))
    for name, its in widths.items():
        justify: JustifyMethod = "right" if name in _NUMBERS else "left"
        no_wrap = rows is not None or name != "WHY"
        made.add_column(name, justify=justify, no_wrap=no_wrap, overflow="ellipsis", width=its)
    for row in cells:
        made.add_row(*(row[name] for name in widths))
    return made


def _widths(cells: Sequence[Mapping[str, Text]], width: int | None) -> dict[str, int | None]:
    """The columns that are shown, and how wide each is; None where it may be as wide as it is."""
    if width is None:
        return dict.fromkeys(_COLUMNS)
    whole = {name: max([len(name), *(row[name].cell_len for row in cells)]) for name in _COLUMNS}
    widths = {name: min(its, _ENOUGH.get(name, its)) for name, its in whole.items()}

    def left() -> int:
        return width - sum(its + _GAP for its in widths.values())

    for name in _LEAST:
        if left() < 0:
            del widths[name]
    widths["WHY"] = max(1, min(whole["WHY"], widths["WHY"] + left()))
    return dict(widths)


def totals_text(findings: Sequence[Finding]) -> Text:
    """The line of the whole fleet."""
    totals = Totals.of(findings)
    return Text(printable(totals.line), style="bold green" if totals.well else "bold yellow")


def as_json(findings: Sequence[Finding], shown: Sequence[Finding]) -> dict[str, object]:
    """The fleet as one object, of which some boards are shown; what is not known is null."""
    totals = Totals.of(findings)
    return {
        "time_unix_ms": time.time_ns() // 1_000_000,
        "summary": {"boards": totals.boards, **{state.name.lower(): totals.states[state] for state in reversed(State)}},
        "packages": dict(totals.releases.most_common()),
        "on_trial": totals.on_trial,
        "boards": [_object(finding) for finding in shown],
    }


def changes(before: Sequence[Finding], now: Sequence[Finding]) -> Iterator[str]:
    """A line for each board that is not as it was."""
    then = {finding.board.name: finding.state for finding in before}
    for finding in now:
        was = then.get(finding.board.name)
        if was is not None and was != finding.state:
            why = f": {finding.reason}" if finding.reason else ""
            yield printable(f"{finding.board.name}: {was.words} -> {finding.state.words}{why}")


def printable(text: str, longest: int = _LONGEST) -> str:
    """In one line, without what would move a terminal's cursor: it is somebody else who says this."""
    shown = "".join(each if each.isprintable() else " " for each in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def _cells(finding: Finding) -> Iterator[Text]:
    snapshot, celsius, free = finding.snapshot, finding.celsius, finding.free_bytes
    speed, uptime_s = finding.tokens_per_second, finding.uptime_s
    yield Text(printable(finding.board.name))
    yield Text(printable(finding.board.group))
    yield Text(finding.state.words, style=_STYLES.get(finding.state, "bold red"))
    yield Text(printable(", ".join(finding.releases)))
    yield _slot(finding)
    yield Text("" if celsius is None else f"{celsius:.0f} C")
    if snapshot is None:
        yield from (Text(), Text(), Text(), Text(), Text(), Text())
    else:
        yield Text("" if speed is None else f"{speed:.1f}")
        yield Text(str(finding.running))
        yield Text(str(finding.waiting))
        yield Text("" if free is None else size(free))
        yield Text("" if uptime_s is None else printable(duration(uptime_s)))
        yield Text(printable(snapshot.daemon_version))
    yield Text(printable(finding.reason))


def _slot(finding: Finding) -> Text:
    """Of the store, with a word on what is not committed."""
    served = finding.served
    if served is None:
        return Text()
    return Text(f"{printable(served.slot)} trial", style="yellow") if served.trial else Text(printable(served.slot))


def _object(finding: Finding) -> dict[str, object]:
    snapshot = finding.snapshot
    return {
        "board": finding.board.name,
        "groups": list(finding.board.groups),
        "target": finding.board.connection.target,
        "state": finding.state.name.lower(),
        "reason": finding.reason or None,
        "models": [
            {
                "name": each.model.name,
                "package_version": each.model.package_version or None,
                "variant": each.model.variant,
                "build_digest": each.model.build_digest,
            }
            for each in finding.models
        ],
        "slot": None if finding.served is None else finding.served.slot,
        "trial": None if finding.served is None else finding.served.trial,
        "temperature_c": finding.celsius,
        "tokens_per_second": finding.tokens_per_second,
        "running": None if snapshot is None else finding.running,
        "waiting": None if snapshot is None else finding.waiting,
        "memory_available_bytes": finding.free_bytes,
        "daemon_rss_bytes": None if snapshot is None else snapshot.process.rss_bytes,
        "uptime_s": finding.uptime_s,
        "daemon_version": None if snapshot is None else snapshot.daemon_version or None,
    }
