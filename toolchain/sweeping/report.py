"""What a sweep found, as a table in Markdown, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from .sweep import Result, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"int4": "#0b5fa5", "int8": "#c8501e"}


def write_report(sweep: Sweep, folder: Path, *, title: str, measured_on: str) -> None:
    """Writes `sweep.json`, `sweep.md` and `sweep.png` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"title": title, "measured_on": measured_on} | as_json(sweep)
    (folder / "sweep.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (folder / "sweep.md").write_text(_markdown(sweep, title, measured_on), encoding="utf-8")
    _draw(sweep, folder / "sweep.png", title, measured_on)


def as_json(sweep: Sweep) -> dict[str, object]:
    """The results, smallest first, the names of those that nothing beats, and why others have no result."""
    return {
        "results": [each.as_row() for each in sweep.results],
        "front": [each.candidate.name for each in sweep.front()],
        "failed": sweep.failed,
        "left_out": sweep.left_out,
    }


def table_of(sweep: Sweep) -> Table:
    """For a terminal."""
    table = Table(*_HEADINGS)
    for row in _rows(sweep):
        table.add_row(*row)
    return table


_HEADINGS = ("", "recipe", "MB", "KLD", "same top token", "tokens/s", "on the front")


def _rows(sweep: Sweep) -> list[tuple[str, ...]]:
    front = sweep.front()
    return [
        (
            str(number),
            each.candidate.name,
            f"{each.weights_bytes / 1e6:.1f}",
            f"{each.mean_kld:.4f}",
            f"{each.top1_agreement:.1%}",
            f"{each.decode_speed:.0f}" if each.decode_speed else "",
            "yes" if each in front else "",
        )
        for number, each in enumerate(sweep.results, 1)
    ]


def _markdown(sweep: Sweep, title: str, measured_on: str) -> str:
    lines = [f"{title}. {measured_on}.", "", f"| {' | '.join(_HEADINGS)} |", "|---" * len(_HEADINGS) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(sweep)]
    for heading, reasons in (("Failed", sweep.failed), ("Left out", sweep.left_out)):
        lines += [line for name, reason in reasons.items() for line in ("", f"{heading}: {name}: {reason}")]
    return "\n".join(lines) + "\n"


def _draw(sweep: Sweep, file: Path, title: str, measured_on: str) -> None:
    from matplotlib.figure import Figure

    front = sweep.front()
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    bytes_axes, speed_axes = figure.subplots(1, 2, sharey=True)
    _scatter(bytes_axes, sweep.results, lambda each: each.weights_bytes / 1e6)
    sizes = [each.weights_bytes / 1e6 for each in front]
    bytes_axes.plot(sizes, [each.mean_kld for each in front], color="0.6", zorder=0)
    bytes_axes.set_xlabel("weights, MB; the line joins those that nothing beats")
    bytes_axes.set_ylabel("mean KLD to the float checkpoint")
    if any(each.decode_speed for each in sweep.results):
        _scatter(speed_axes, sweep.results, lambda each: each.decode_speed or 0.0)
        speed_axes.set_xlabel("decode, tokens/s of one stream, on this machine")
    else:
        speed_axes.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.supxlabel(f"{measured_on}. Numbers are the table's.", fontsize=8, color="0.35")
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _scatter(axes: Axes, results: Sequence[Result], x_of: Callable[[Result], float]) -> None:
    for number, each in enumerate(results, 1):
        at, colour = (x_of(each), each.mean_kld), _COLOURS[each.candidate.precision]
        axes.plot(*at, "o", color=colour, markersize=5)
        axes.annotate(str(number), at, (4, 3), textcoords="offset points", fontsize=8, color=colour)
    axes.set_yscale("log")
    axes.grid(color="0.92", which="both")
    axes.spines[["top", "right"]].set_visible(False)
