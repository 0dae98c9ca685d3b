"""Text of ours that no calibration uses."""

from __future__ import annotations

from importlib import resources

HELD_OUT = "edgeqwen held-out"
"""What reports call it."""


def held_out_text() -> str:
    """All of it."""
    return resources.files("toolchain").joinpath("data", "heldout.txt").read_text(encoding="utf-8")
