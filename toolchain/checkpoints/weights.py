"""What is in a checkpoint's weights files, looked at before anything is made of them.

A download that stopped, a shard that is missing, a configuration of another model and numbers that are none would show
minutes later, in Olive or in what the package answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import SourceError
from runtime.package import Geometry

_INDEX = "model.safetensors.index.json"
_CHUNK = 1 << 24  # numbers that are looked at together

# Types of weights, by the bits that say "infinite or no number" where all of them are set.
_EXPONENTS = {"F32": ("<u4", 0x7F80_0000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}


@dataclass(frozen=True)
class Tensor:
    """A tensor in a safetensors file: `begin` and `end` are its bytes' places in the file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def require_sound(folder: Path, geometry: Geometry, heads: int) -> None:
    """Raises SourceError unless the weights in `folder` are whole, of the shape that config.json says, and numbers.

    Args:
        heads: attention heads of a layer.
    """
    tensors = {tensor.name: tensor for path in _files(folder) for tensor in read_tensors(path)}
    for name, shape in _expected(geometry, heads):
        if name not in tensors:
            raise SourceError(f"{folder} lacks the weights {name}: copy or download it again")
        if tensors[name].shape != shape:
            raise SourceError(
                f"{tensors[name].file} is of another model than config.json: {name} is"
                f" {_times(tensors[name].shape)}, not {_times(shape)}"
            )
    for tensor in tensors.values():
        if not _is_finite(tensor):
            raise SourceError(
                f"{tensor.file} has values that are no numbers in {tensor.name}: the checkpoint is damaged, or its"
                " training failed"
            )


def read_tensors(path: Path) -> list[Tensor]:
    """Those of a safetensors file. Raises SourceError if it is not whole: its header says how long it must be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):
            pass
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{path} is damaged or cut short ({error}): copy or download it again") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return [
        Tensor(path, name, entry["dtype"], tuple(entry["shape"]), *(8 + length + at for at in entry["data_offsets"]))
        for name, entry in header.items()
        if name != "__metadata__"
    ]


def parameters(folder: Path) -> int:
    """How many numbers the weights in `folder` are."""
    return sum(math.prod(tensor.shape) for path in _files(folder) for tensor in read_tensors(path))


def _files(folder: Path) -> list[Path]:
    """The weights files. Raises SourceError if the index names one that is not there."""
    there = sorted(folder.glob("*.safetensors"))
    index = folder / _INDEX
    if not index.is_file():
        return there
    try:
        named = {str(name) for name in _weight_map(index).values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SourceError(f"{index} cannot be read: {error!r}") from error
    if missing := sorted(named - {path.name for path in there}):
        raise SourceError(f"{folder} lacks {', '.join(missing)}, which {_INDEX} names: copy or download it again")
    return there


def _weight_map(index: Path) -> Mapping[str, object]:
    found: Mapping[str, object] = json.loads(index.read_bytes())["weight_map"]
    return found


def _expected(geometry: Geometry, heads: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """The matrices that every Qwen has, `[out, in]`."""
    hidden, query, kv = geometry.hidden_size, heads * geometry.head_dim, geometry.kv_heads * geometry.head_dim
    yield "model.embed_tokens.weight", (geometry.vocab_size, hidden)
    shapes = {"q_proj": (query, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, query)}
    for layer in range(geometry.layers):
        for name, shape in shapes.items():
            yield f"model.layers.{layer}.self_attn.{name}.weight", shape


def _is_finite(tensor: Tensor) -> bool:
    """Reads the bits, as numpy does not know bfloat16; other types than floats have no values that are no numbers."""
    if tensor.dtype not in _EXPONENTS or tensor.begin == tensor.end:
        return True
    dtype, exponent = _EXPONENTS[tensor.dtype]
    count = (tensor.end - tensor.begin) // np.dtype(dtype).itemsize
    bits = np.memmap(tensor.file, dtype, mode="r", offset=tensor.begin, shape=(count,))
    return not any(((bits[at : at + _CHUNK] & exponent) == exponent).any() for at in range(0, count, _CHUNK))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
