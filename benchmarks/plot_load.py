"""Draws `load.json` (see load.py): what becomes of time and answers as the load rises past what can be served.

python benchmarks/plot_load.py docs/benchmarks/load.json docs/benchmarks/load.svg
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"p50": "#9bc4e8", "p95": "#3b86c6", "p99": "#0b3d70"}


def draw(raw: dict[str, Any], out: Path) -> None:
    """Four charts beside each other, over the offered load."""
    levels = raw["levels"]
    loads = [level["share"] for level in levels]
    figure, (first, token, rates, queue) = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
    _quantiles(first, loads, [level["first_ms"] for level in levels], "Time to first token, ms")
    _quantiles(token, loads, [level["token_ms"] for level in levels], "Time of each further token, ms")
    rates.set_title("Requests a second", loc="left", fontweight="bold", fontsize=10)
    for name, colour in (("offered", "0.7"), ("answered", "#3d7d3a"), ("good", "#9bc48f")):
        rates.plot(loads, [level[name] for level in levels], color=colour, marker="o", markersize=4, label=name)
    refused = [sum(level["refused"].values()) / raw["seconds"] for level in levels]
    rates.plot(loads, refused, color="#c8501e", marker="s", markersize=4, label="refused")
    queue.set_title("Requests in the daemon", loc="left", fontweight="bold", fontsize=10)
    for name, label, colour in (
        ("queued_most", "queued, most", "#c8501e"),
        ("queued_mean", "queued, mean", "#eda268"),
        ("running_mean", "running, mean", "#3d7d3a"),
    ):
        queue.plot(loads, [level[name] for level in levels], color=colour, marker="o", markersize=4, label=label)
    for axes in (first, token, rates, queue):
        axes.axvline(1.0, color="0.8", linewidth=1, zorder=0)
        axes.set_xlabel("load, 1 is what can be served")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.legend(frameon=False, fontsize=8)
    figure.supxlabel(f"{raw['machine']}; {raw['date']}", fontsize=8, color="0.35")
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=110)
    plt.close(figure)


def _quantiles(axes: Axes, loads: list[float], its: list[dict[str, float] | None], title: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
    for name, colour in COLOURS.items():
        axes.plot(
            loads,
            [each[name] if each else math.nan for each in its],
            color=colour,
            marker="o",
            markersize=4,
            label=name,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, help=".svg or .png")
    options = parser.parse_args()
    draw(json.loads(options.data.read_text(encoding="utf-8")), options.out)


if __name__ == "__main__":
    main()
