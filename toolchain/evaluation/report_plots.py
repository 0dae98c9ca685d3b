"""The plots of a report, as SVG that stands in a page."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .choices import Comparison
from .divergence import Divergence, Floats, Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PACKAGE, _FLOAT, _INK = "#1f6fb2", "#8a8f98", "#33383f"
_SIZE_INCHES = (5.2, 3.1)
_SMALLEST_KLD = 1e-6  # what is less is drawn there: rounding, on a logarithmic axis
_POSITIONS_A_BIN = 32
_CONFIDENCE = np.linspace(0, 1, 11)


def divergence_plots(divergence: Divergence) -> list[str]:
    """How KLD is spread, where in the window it is, and what the probabilities are worth."""
    return [
        _svg("kld", lambda axes: _kld_spread(axes, divergence)),
        _svg("position", lambda axes: _kld_by_position(axes, divergence)),
        _svg("agreement", lambda axes: _agreement(axes, divergence)),
        _svg("calibration", lambda axes: _calibration(axes, divergence)),
    ]


def choices_plot(result: Comparison) -> str:
    """The shares of right answers, each with its standard error."""
    return _svg("choices", lambda axes: _choices(axes, result), height_inches=1.6)


def _svg(name: str, draw: Callable[[Axes], None], height_inches: float = _SIZE_INCHES[1]) -> str:
    """An `<svg>` element; the same plot is the same text, and the ids of two in a page differ."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK)
    out = io.StringIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_SIZE_INCHES[0], height_inches), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _kld_spread(axes: Axes, divergence: Divergence) -> None:
    kld = np.maximum(divergence.kld, _SMALLEST_KLD)
    axes.hist(kld, bins=list(np.geomspace(_SMALLEST_KLD, max(kld.max(), 1.0), 60)), color=_PACKAGE)
    axes.set_xscale("log")
    marks = (("median", np.median(kld), ":"), ("mean", kld.mean(), "-"), ("99 %", np.quantile(kld, 0.99), "--"))
    for name, value, line in marks:
        axes.axvline(value, color=_INK, linewidth=1, linestyle=line, label=f"{name} {value:.2g}")
    axes.legend(frameon=False)
    axes.set(title="KLD of all positions", xlabel="KL(float || package), nats", ylabel="positions")


def _kld_by_position(axes: Axes, divergence: Divergence) -> None:
    bins = divergence.offsets // _POSITIONS_A_BIN
    numbers = np.unique(bins)
    means = [divergence.kld[bins == number].mean() for number in numbers]
    axes.bar((numbers + 0.5) * _POSITIONS_A_BIN, means, width=_POSITIONS_A_BIN * 0.85, color=_PACKAGE)
    axes.set(title="KLD by place in the window", xlabel="tokens before", ylabel="mean KLD, nats")


def _agreement(axes: Axes, divergence: Divergence) -> None:
    confidence = divergence.reference.probabilities[:, 0]
    shares, centers, counts = _by_confidence(confidence, divergence.same_top.astype(np.float32))
    axes.bar(centers, shares, width=0.085, color=_PACKAGE)
    for center, share, count in zip(centers, shares, counts, strict=True):
        axes.annotate(f"{count}", (center, share), ha="center", va="bottom", fontsize=7)
    axes.set(
        title="Same top token, by how sure float is",
        xlabel="float's probability of its top token",
        ylabel="share with the same",
        xlim=(0, 1),
        ylim=(0, 1.09),
    )


def _calibration(axes: Axes, divergence: Divergence) -> None:
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
    for name, predictions, color in (
        ("float", divergence.reference, _FLOAT),
        ("package", divergence.model, _PACKAGE),
    ):
        shares, centers, _ = _by_confidence(*_hits(predictions, divergence))
        axes.plot(centers, shares, marker="o", markersize=4, color=color, label=name)
    axes.legend(frameon=False)
    axes.set(
        title="What a probability is worth",
        xlabel="probability of the top token",
        ylabel="share that came",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )


def _hits(predictions: Predictions, divergence: Divergence) -> tuple[Floats, Floats]:
    """Where something came: how sure the model was of its top token, and whether that came."""
    known = divergence.following >= 0
    hit = predictions.tokens[known, 0] == divergence.following[known]
    return predictions.probabilities[known, 0], hit.astype(np.float32)


def _by_confidence(confidence: Floats, outcome: Floats) -> tuple[list[float], list[float], list[int]]:
    """The mean outcome in each tenth of confidence that has any, its middle, and how many there are."""
    tenths = np.clip(np.digitize(confidence, _CONFIDENCE) - 1, 0, 9)
    there = [int(tenth) for tenth in np.unique(tenths)]
    return (
        [float(outcome[tenths == tenth].mean()) for tenth in there],
        [tenth / 10 + 0.05 for tenth in there],
        [int((tenths == tenth).sum()) for tenth in there],
    )


def _choices(axes: Axes, result: Comparison) -> None:
    scores = (result.package, result.float_checkpoint)
    margins = [100 * (score.stderr or 0) for score in scores]
    shares = [100 * score.share for score in scores]
    axes.barh(["package", "float"], shares, xerr=margins, color=[_PACKAGE, _FLOAT], ecolor=_INK, capsize=3, height=0.6)
    axes.invert_yaxis()
    axes.set(title="Right answers, ± standard error", xlabel="%", xlim=(0, 100))
