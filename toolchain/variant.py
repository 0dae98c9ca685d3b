"""What a variant is made of, whatever backend it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runtime.package import AdapterBuild, Fidelity, Golden, Npu

Exporter = Literal["model_builder", "optimum"]
"""What writes the graph."""

TOOLS = ("olive-ai", "onnxruntime", "onnxruntime-genai", "torch", "transformers")
"""Packages whose versions decide what comes out, whatever the backend."""

OPTIMUM_TOOLS = (*TOOLS, "optimum", "optimum-onnx")
QNN_TOOLS = (*TOOLS, "onnxruntime-qnn")
OPENVINO_TOOLS = (*TOOLS, "openvino", "openvino-tokenizers", "nncf", "optimum-intel")
"""Those of the backends that need more."""


@dataclass(frozen=True)
class VariantParts:
    """A compiled model, ready to be packaged.

    Args:
        stock: the model as Olive wrote it, for ONNX Runtime with genai_config.json: what other programs can run.
        ours: the files that `runtime` needs beside it, by path in the variant's folder.
        recipe: what was done to the checkpoint.
        tools: the packages whose versions decided what came out.
        weights_bytes: resident once it is loaded.
        kv_bytes_per_token: None for what follows from the model's shape and the type that the profile says.
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
    tools: tuple[str, ...] = TOOLS
    kv_bytes_per_token: int | None = None
    exporter: Exporter = "model_builder"
    adapter_targets: list[str] = field(default_factory=list)
    adapters: dict[str, AdapterBuild] = field(default_factory=dict)

    @property
    def for_onnxruntime(self) -> bool:
        return any(path.suffix == ".onnx" for path in self.stock)
