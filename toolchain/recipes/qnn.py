"""What Olive is to do for a Qualcomm NPU. Pure: the same input gives the same recipes.

Two recipes, one after the other. The first makes a pipeline of static graphs (embeddings, decoder for a window of
tokens and for one, head) whose decoder computes in integers: it is the same for every SoC. The second compiles the
decoder for one. Weights are rounded with a scale per output channel, as the NPU has no smaller blocks for them;
embeddings and head run on the CPU, in blocks of 8 bits.

The passes are those of Microsoft's olive-recipes for Qwen2.5 on QNN, with these differences: the residual stream is
rotated (QuaRot, arXiv:2404.00456), GPTQ is Olive's own, which needs no GPU, and what does not work on Linux is left
out. See docs/adr/0015-qnn.md.
"""

from __future__ import annotations

from runtime.errors import BuildError
from runtime.profile import Profile

from .recipe import ACTIVATIONS, CALIBRATION, GPTQ_DAMPING, Pass, Precision, Recipe

PIPELINE = "genai_config.json"
"""What says which graphs a pipeline has."""

_HEAD = ["/lm_head/MatMulNBits", "/lm_head/MatMul_Q4", "/lm_head/MatMul_Q8"]  # as ModelBuilder may call it
_HEAD_BLOCK = 32


def plan_pipeline(profile: Profile, precision: Precision) -> Recipe:
    """From a checkpoint to static graphs, whose window is the profile's prefill chunk."""
    if precision == "float32":
        raise BuildError(f"{profile.name} is an NPU, which computes in integers: choose --precision int4 or int8")
    return Recipe(
        {
            "rotate": {"type": "QuaRot"},
            "layers": _layers(precision),
            "head": {"type": "Rtn", "bits": 8, "group_size": _HEAD_BLOCK, "sym": True, "lm_head": True, "embeds": True},
            "split_info": {"type": "CaptureSplitInfo", "num_splits": 1, "unique_embeds_lm_head_splits": True},
            "model_builder": {
                "type": "ModelBuilder",
                "precision": "int4",
                "int4_block_size": _HEAD_BLOCK,
                "int4_accuracy_level": 4,
                "int4_op_types_to_quantize": ["MatMul", "Gather"],
            },
            "weights": {
                "type": "MatMulNBitsToQDQ",
                "use_int4": True,
                "use_signed_int": True,
                "add_zero_point": True,
                "nodes_to_exclude": _HEAD,
                "save_as_external_data": True,
            },
            "operators": {
                "type": "GraphSurgeries",
                "surgeries": [
                    {"surgeon": "RemoveRopeMultiCache"},
                    {"surgeon": "AttentionMaskToSequenceLengths"},
                    {"surgeon": "SimplifiedLayerNormToL2Norm"},
                ],
                "save_as_external_data": True,
            },
            "activations": {
                "type": "OnnxStaticQuantization",
                "data_config": ACTIVATIONS,
                "activation_type": "uint16",
                "precision": "uint8",
                "calibration_providers": ["CPUExecutionProvider"],
                "quant_preprocess": True,
                "op_types_to_exclude": ["GatherBlockQuantized", "GroupQueryAttention", "MatMulNBits"],
                "save_as_external_data": True,
            },
            "split": {"type": "SplitModel"},
            "static": {
                "type": "StaticLLM",
                "batch_size": 1,
                "context_length": profile.runtime.prefill_chunk_tokens,
            },
        },
        profile.execution.provider,
        device="npu",
        makes=PIPELINE,
    )


def plan_binaries(profile: Profile) -> Recipe:
    """From a pipeline of static graphs to one whose decoder is compiled for the profile's SoC."""
    return Recipe(
        {
            "binaries": {
                "type": "EPContextBinaryGenerator",
                "provider_options": dict(profile.execution.options),
                "weight_sharing": False,  # with it, Olive 0.13 forgets the first graph's binary
            },
            "compose": {"type": "ComposeOnnxModels"},
        },
        profile.execution.provider,
        device="npu",
        takes="pipeline",
        makes=PIPELINE,
    )


def _layers(precision: Precision) -> Pass:
    per_channel: Pass = {"group_size": -1, "sym": True}
    if precision == "int8":
        return {"type": "Rtn", "bits": 8, **per_channel}
    return {
        "type": "Gptq",
        "bits": 4,
        "lm_head": False,
        "data_config": CALIBRATION,
        "damp_percent": GPTQ_DAMPING,
        **per_channel,
    }
