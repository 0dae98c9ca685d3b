"""What Olive is to do where Optimum writes the graph. Pure, as `recipe` is where ModelBuilder does.

Optimum traces transformers' own code, so it takes what ModelBuilder has no graph for. Its float graph is quantized as
it is, without calibration text: layers by k-quant, llama.cpp's search for a scale and a zero point, and what hurts most
by rounding to nearest at 8 bits, which is the head, the embedding, and the router of a mixture of experts.
"""

from __future__ import annotations

from runtime.errors import Fault, ProfileError
from runtime.profile import Profile

from .recipe import Pass, Precision, Recipe

_OPSET = 18  # Olive's own default of 14 is too old for what torch 2.13 traces
_BLOCK = 32


def plan_optimum(profile: Profile, precision: Precision, layers: int) -> Recipe:
    """The recipe for `profile` at `precision`, for a model of so many `layers`.

    Raises ProfileError for what runs no such graph, or not at that precision.
    """
    if profile.execution.backend != "ort":
        message = f"must be CPUExecutionProvider with --exporter optimum (got {profile.execution.name})"
        raise ProfileError([Fault("execution.provider", message)], profile.name)
    if precision == "float16":
        fault = Fault("precision", "must be int4, int8 or float32: CPUs compute in float32")
        raise ProfileError([fault], profile.name)
    passes: dict[str, Pass] = {
        "export": {
            "type": "OptimumConversion",
            "target_opset": _OPSET,
            "extra_args": {"task": "text-generation-with-past", "no_post_process": True, "do_validation": False},
        }
    }
    if precision != "float32":
        passes |= _quantized(profile, precision, layers)
    tie: Pass = {
        "type": "GraphSurgeries",
        "surgeries": [
            # Olive 0.13 renames what it quantizes, the output too.
            {"surgeon": "RenameOutputs", "old_names": ["logits_Q8"], "new_names": ["logits"]},
            {"surgeon": "TieWordEmbeddings"},
        ],
        "save_as_external_data": True,
    }
    return Recipe(passes | {"tie": tie}, profile.execution.provider)


def _quantized(profile: Profile, precision: Precision, layers: int) -> dict[str, Pass]:
    knobs = profile.quantization.int4 if precision == "int4" else profile.quantization.int8
    kept = ["/model/embed_tokens/Gather", "/lm_head/MatMul"]
    kept += [f"/model/layers.{layer}/mlp/gate/MatMul" for layer in range(layers)]  # the router, if there is one
    return {
        "kept": {
            "type": "OnnxBlockWiseRtnQuantization",
            "bits": 8,
            "block_size": _BLOCK,
            "is_symmetric": True,
            "accuracy_level": knobs.accuracy_level,
            "nodes_to_include": kept,
            "save_as_external_data": True,
        },
        "layers": {
            "type": "OnnxKQuantQuantization",
            "bits": 4 if precision == "int4" else 8,
            "block_size": knobs.block_size,
            "accuracy_level": knobs.accuracy_level,
            "save_as_external_data": True,
        },
    }
