"""What Olive is to do for OpenVINO. Pure, as `recipe` is for ONNX Runtime.

Optimum writes the checkpoint as OpenVINO's IR with the KV cache as state, and NNCF rounds its weights to nearest. At
INT4 it first scales what matters most (AWQ, Lin et al., arXiv:2306.00978), which it tells from the weights alone: to be
shown text, Olive 0.13 would have to be given it where it looks for paths. The tied head and embedding keep 8 bits, and
where a block divides no row, a smaller one is taken. Intel recommends symmetric blocks of 128 for the NPU
(docs.openvino.ai, "OpenVINO GenAI on NPU").
"""

from __future__ import annotations

from runtime.profile import Int4, Profile

from .recipe import Pass, Precision, Recipe

OPENVINO_PROVIDER = "OpenVINOExecutionProvider"
"""What Olive calls it, although the model runs on OpenVINO itself."""


def plan_openvino(profile: Profile, precision: Precision) -> Recipe:
    """The recipe for `profile` at `precision`."""
    quantization = profile.quantization
    weights: dict[str, object]
    if precision == "int4":
        weights = _int4(quantization.int4)
    elif precision == "int8":
        weights = {"weight_format": "int8", "sym": quantization.int8.symmetric}
    else:
        weights = {"weight_format": "fp32"}
    convert: Pass = {
        "type": "OpenVINOOptimumConversion",
        "extra_args": {"task": "text-generation-with-past"},
        "ov_quant_config": weights,
    }
    return Recipe({"convert": convert}, OPENVINO_PROVIDER, makes="model/openvino_model.xml")


def _int4(knobs: Int4) -> dict[str, object]:
    return {
        "weight_format": "int4",
        "group_size": knobs.block_size,
        "group_size_fallback": "adjust",
        "sym": knobs.symmetric,
        "ratio": 1.0,
        "awq": True,
        "backup_precision": "int8_sym" if knobs.symmetric else "int8_asym",
    }
