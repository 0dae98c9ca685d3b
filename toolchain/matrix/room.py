"""How many builds there is room for at once on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runtime.errors import SourceError

from ..checkpoints.weights import parameters
from ..exhaustion import sized
from ..requirements import MEMORY_BYTES, MEMORY_BYTES_AT_LEAST, MEMORY_BYTES_PER_PARAMETER
from ..sizing.models import read_models

_GGUF_PARAMETERS_PER_BYTE = 2  # at 4 bits, and there are none with less


def worker_count(sources: Sequence[str], cores: int, free_bytes: int) -> tuple[int, str]:
    """How many workers for builds of these, and why, in a sentence.

    A core and the memory that the largest takes must be there for each. Models of unknown size are built one by one.
    """
    sizes = {source: parameter_count(source) for source in sources}
    if unknown := [source for source, size in sizes.items() if size is None]:
        return 1, f"one worker, as the size of {unknown[0]} is not known yet: --workers takes more"
    needed = memory_bytes(max(size or 0 for size in sizes.values()))
    count = max(1, min(len(sources), cores, free_bytes // needed))
    there = f"{cores} cores, {sized(free_bytes)} of memory free, and the largest build takes about {sized(needed)}"
    return count, f"{count} worker{'s' if count > 1 else ''}: {there}"


def memory_bytes(parameter_count: int) -> int:
    """What the build of a model takes at most, about."""
    return max(MEMORY_BYTES, MEMORY_BYTES_AT_LEAST + MEMORY_BYTES_PER_PARAMETER * parameter_count)


def parameter_count(source: str) -> int | None:
    """Of a checkpoint that is here, or that we know by its name on the hub; None for others."""
    path = Path(source)
    if source == "reference":
        return 0  # what the smallest build takes was measured with it
    if path.is_dir():
        try:
            return parameters(path)
        except (SourceError, OSError):
            return 0  # the build will say what is wrong with it
    if path.is_file():
        return path.stat().st_size * _GGUF_PARAMETERS_PER_BYTE
    return next((model.shape.parameters for model in read_models() if model.id == source), None)
