"""Draws `peers.json` (see peers.py): a row of small charts for each model. Runs in the peers' environment.

.venv-peers/bin/python benchmarks/plot_peers.py docs/benchmarks/peers.json docs/benchmarks/peers.svg
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from peer_figures import LONG_PROMPT, PROMPTS, RUNNING, STREAMS, p99
from peer_report import LABELS, rounds

_GAPS = f"ring: quiet median\ndot: p99 while {LONG_PROMPT} tokens are read"
STYLES = {
    "ours": ("#0b5fa5", "-", "o"),
    "grpc": ("#5aa9e6", "--", "o"),
    "llama-q4_0": ("#c8501e", "-", "s"),
    "llama-q4_k_m": ("#eda268", "--", "s"),
    "llama-q4_0-no-amx": ("#7a3b1e", ":", "D"),
    "genai": ("#3d7d3a", "-", "^"),
    "genai-default": ("#9bc48f", "--", "^"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, help=".svg or .png")
    options = parser.parse_args()
    raw = json.loads(options.data.read_text(encoding="utf-8"))
    models = raw["models"]
    figure, rows = plt.subplots(
        len(models), 4, figsize=(13, 1.3 + 2.6 * len(models)), squeeze=False, layout="constrained"
    )
    for row, (name, model) in zip(rows, models.items(), strict=True):
        _lines(row[0], model, "prefill@{}", PROMPTS)
        _lines(row[1], model, "decode@{}", PROMPTS)
        _lines(row[2], model, "total x{}", STREAMS)
        _gaps(row[3], model)
        row[0].set_ylabel(f"{name}\n\ntokens/s")
    for axes, title in zip(
        rows[0],
        ("Prefill", "Decode, one stream", "Total of several streams", f"Gaps of {RUNNING} streams, ms"),
        strict=True,
    ):
        axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
    for axes, label in zip(rows[-1], ("prompt tokens", "depth, tokens", "streams", _GAPS), strict=True):
        axes.set_xlabel(label)
    handles = {line.get_label(): line for row in rows for axes in row[:3] for line in axes.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False)
    note = "; ".join([raw["machine"], *(f"{name}: {rounds(model)}" for name, model in models.items())])
    figure.supxlabel(note, fontsize=8, color="0.35")
    figure.savefig(options.out, metadata={"Date": None} if options.out.suffix == ".svg" else None, dpi=110)


def _lines(axes: Axes, model: dict[str, Any], name: str, at: tuple[int, ...]) -> None:
    for key, its in model["systems"].items():
        colour, dash, marker = STYLES[key]
        if name.format(at[-1]) in its["figures"]:
            values = [statistics.median(its["figures"][name.format(each)]) for each in at]
            axes.plot(range(len(at)), values, dash, color=colour, marker=marker, markersize=4, label=LABELS[key])
    axes.set_xticks(range(len(at)), [str(each) for each in at])
    axes.set_xlim(-0.25, len(at) - 0.75)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9")
    _plain(axes)


def _gaps(axes: Axes, model: dict[str, Any]) -> None:
    """From the quiet median to the 99th percentile while a long prompt is computed, and how many times that is."""
    shown = [key for key, its in model["systems"].items() if "gaps busy" in its["figures"]]
    for at, key in enumerate(reversed(shown)):
        figures, colour = model["systems"][key]["figures"], STYLES[key][0]
        quiet_ms, busy_ms = 1000 * statistics.median(figures["gaps quiet"]), 1000 * p99(figures["gaps busy"])
        axes.plot([quiet_ms, busy_ms], [at, at], color=colour, linewidth=2)
        axes.plot(quiet_ms, at, "o", color="white", markeredgecolor=colour, markersize=6)
        axes.plot(busy_ms, at, "o", color=colour, markersize=6)
        times = f"{busy_ms / quiet_ms:.1f}x"
        axes.annotate(times, (busy_ms, at), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    names = [LABELS[key].replace(", threads set", "").replace(", ", "\n") for key in reversed(shown)]
    axes.set_yticks(range(len(shown)), names)
    axes.grid(axis="x", color="0.9")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


if __name__ == "__main__":
    main()
