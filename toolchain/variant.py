"""What a variant is made of, whatever backend it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.package import AdapterBuild, Fidelity, Golden, Npu


@dataclass(frozen=True)
class VariantParts:
    """A compiled model, ready to be packaged.

    Args:
        stock: the model as Olive wrote it, genai_config.json included: what other programs can run.
        ours: the files that `runtime` needs beside it, by path in the variant's folder.
        recipe: what was done to the checkpoint.
        weights_bytes: resident once it is loaded.
        contrib_ops: operators of ONNX Runtime's own that it needs.
    """

    stock: tuple[Path, ...]
    ours: Mapping[str, Path]
    recipe: dict[str, dict[str, object]]
    weights_bytes: int
    contrib_ops: list[str]
    fidelity: Fidelity | None
    golden: Golden
    npu: Npu | None = None
    adapter_targets: list[str] = field(default_factory=list)
    adapters: dict[str, AdapterBuild] = field(default_factory=dict)
