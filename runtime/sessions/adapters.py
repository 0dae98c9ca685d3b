"""LoRA adapters (Hu et al., arXiv:2106.09685) as files in onnxruntime's adapter format, `NAME.onnx_adapter`.

An adapter adds `x @ A @ B` to what some projections of the model give. Its file holds, by input of the adapter graph,

    SITE.lora_A.weight  float32 [in, rank]
    SITE.lora_B.weight  float32 [rank, out], with the adapter's scale in it

and which checkpoint it was trained on, in the format's field for the model's version. onnxruntime applies the adapters
of a run itself only where inputs are not bound, so `session` binds them as the inputs they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import AdapterError
from ..package import ADAPTER_SUFFIX, Package, is_adapter_name

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
import onnxruntime as ort

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"

_FORMAT = 1  # of the names and layouts above, in the format's field for the adapter's version
_MODEL_VERSION_BITS = 31


@dataclass(frozen=True)
class Adapter:
    """A file that was read. `tensors` are by graph input; `model_version` names the checkpoint it belongs to."""

    name: str
    path: Path
    tensors: Mapping[str, ort.OrtValue]
    model_version: int


def model_version(base: str) -> int:
    """The first 31 bits of `Package.adapter_base`: what the format has room for."""
    return int(base[:8], 16) >> (32 - _MODEL_VERSION_BITS)


def write_adapter(path: Path, tensors: Mapping[str, NDArray[np.float32]], base: str) -> None:
    """Writes a file; the same tensors give the same bytes."""
    file = ort.AdapterFormat()
    file.set_adapter_version(_FORMAT)
    file.set_model_version(model_version(base))
    file.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(tensors[name]) for name in sorted(tensors)})
    file.export_adapter(str(path))


def read_adapter(name: str, path: Path) -> Adapter:
    """Reads a file into memory. Raises AdapterError if it is none."""
    try:
        path.open("rb").close()  # onnxruntime says of a file that it cannot open only that
        file = ort.AdapterFormat.read_adapter(str(path))
        tensors = file.get_parameters()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged, or no adapter at all"
        raise AdapterError(f"the adapter {path} cannot be read: {reason}") from error
    if file.get_adapter_version() != _FORMAT:
        raise AdapterError(f"the adapter {path} was not made by this version of `edgeqwen-compile adapter`")
    _require_pairs(path, tensors)
    return Adapter(name, path, tensors, file.get_model_version())


def _require_pairs(path: Path, tensors: Mapping[str, ort.OrtValue]) -> None:
    """Raises AdapterError unless there is an A for every B and a B for every A, of one rank."""
    sites = {name.removesuffix(LORA_A).removesuffix(LORA_B) for name in tensors}
    if len(tensors) != 2 * len(sites):
        raise AdapterError(f"the adapter {path} is not whole")
    for site in sorted(sites):
        down, up = tensors.get(site + LORA_A), tensors.get(site + LORA_B)
        shapes = [tensor.shape() for tensor in (down, up) if tensor and tensor.data_type() == "tensor(float)"]
        if [len(shape) for shape in shapes] != [2, 2] or shapes[0][1] != shapes[1][0] or 0 in shapes[0]:
            raise AdapterError(f"the adapter {path} is not a pair of float32 matrices at {site}")


def find_adapters(package: Package, folder: Path | None) -> list[Adapter]:
    """The package's adapters and those in `folder`, sorted by name, each made for the package's model.

    Raises AdapterError for one that is not, that cannot be read, or whose name is taken.
    """
    paths = {name: package.adapter_file(name) for name in package.build.adapters}
    for path in _files(folder):
        name = path.name.removesuffix(ADAPTER_SUFFIX)
        if not is_adapter_name(name):
            raise AdapterError(f"{path} has a name that requests cannot have: use a-z, 0-9, dots, dashes, underscores")
        if name in paths:
            raise AdapterError(f"the package has an adapter {name!r} of its own: rename {path}")
        paths[name] = path
    if paths and package.adapter_graph is None:
        raise AdapterError(
            f"{package.root.name} takes no adapters: build it with --adapter or --adapter-targets"
            f" (found {', '.join(sorted(paths))})"
        )
    adapters = [read_adapter(name, paths[name]) for name in sorted(paths)]
    wanted = model_version(package.adapter_base)
    for adapter in adapters:
        if adapter.model_version != wanted:
            raise AdapterError(
                f"the adapter {adapter.path} was made for another model than this one of {package.build.source.id}:"
                " convert it with `edgeqwen-compile adapter --package` of this package"
            )
    return adapters


def _files(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise AdapterError(f"the folder of adapters {folder} does not exist: create it")
    return sorted(folder.glob(f"*{ADAPTER_SUFFIX}"))
