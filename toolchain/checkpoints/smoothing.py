"""What the channels of a smoothed checkpoint were divided by, kept beside it, so that adapters can be converted for it.

An adapter adds `x @ A @ B` to a projection of the checkpoint as it was. In the smoothed one x comes divided by factors,
so A must be multiplied by them; and what `v_proj` and `up_proj` give is to be divided, so B must be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.package import SMOOTHING_FILE, adapter_base, file_digest

Factors = NDArray[np.float32]

_FIRST_TAKERS = {
    "q_proj": "q_proj",
    "k_proj": "q_proj",
    "v_proj": "q_proj",
    "o_proj": "o_proj",
    "gate_proj": "gate_proj",
    "up_proj": "gate_proj",
    "down_proj": "down_proj",
}
"""By projection, the first of those that share its input, which stands for it."""


def input_name(layer: int, projection: str) -> str:
    """What the factors of a projection's input are called in the file."""
    return f"layers.{layer}.{_FIRST_TAKERS[projection]}.input"


def output_name(layer: int, projection: str) -> str:
    """What those of its output are called; most have none."""
    return f"layers.{layer}.{projection}.output"


class Smoothing:
    """The factors of a checkpoint; of one that was not smoothed there are none, which is 1 everywhere."""

    def __init__(self, factors: Mapping[str, Factors], file: Path | None = None) -> None:
        self._factors, self.file = factors, file

    @classmethod
    def beside(cls, graph: Path) -> Smoothing:
        """Those kept in the folder of `graph`, if there are any; `file` is where."""
        file = graph.parent / SMOOTHING_FILE
        if not file.is_file():
            return cls({})
        with np.load(file) as factors:
            return cls(dict(factors), file)

    def base(self, checkpoint_digest: str) -> str:
        """`Package.adapter_base` of a package of this model."""
        return adapter_base(checkpoint_digest, file_digest(self.file) if self.file else None)

    def of_input(self, layer: int, projection: str) -> Factors | np.float32:
        """What each channel that `projection` takes was divided by, `[in]`."""
        return self._factors.get(input_name(layer, projection), np.float32(1))

    def of_output(self, layer: int, projection: str) -> Factors | np.float32:
        """What each channel that `projection` gives is divided by, `[out]`."""
        return self._factors.get(output_name(layer, projection), np.float32(1))
