"""What Olive is to do for a profile at a precision. Pure: the same input gives the same recipe.

INT4 quantizes the decoder layers with GPTQ (Frantar et al., arXiv:2210.17323) on calibration text and keeps what
hurts most at 8 bits: the tied head and embedding always, and the layers that `fisher_mixed_precision` measures or that
Olive's SelectiveMixedPrecision names by their place.
INT8 rounds to nearest. Where CPUs round activations to int8, both even out their channels first. ModelBuilder then
writes the graph; given quantized weights it keeps their bits, whatever precision it is asked for, and asking for `int8`
fails in this version.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from runtime.errors import Fault, ProfileError
from runtime.profile import Execution, Int4, Int8, Profile

Precision = Literal["int4", "int8", "float16", "float32"]
Pass = dict[str, object]

CUDA = "CUDAExecutionProvider"

CALIBRATION, ACTIVATIONS = "calibration", "activations"
"""The names under which a recipe's passes find calibration data: for weights, and for the ranges of activations."""


@dataclass(frozen=True)
class Samples:
    """How much of the calibration text a pass reads, in windows of so many tokens."""

    window_tokens: int
    windows: int


# Ranges of activations are measured again later (see toolchain.graphs.activations).
CALIBRATION_DATA = {CALIBRATION: Samples(512, 128), ACTIVATIONS: Samples(256, 2)}

OUR_PASSES = (
    "toolchain.passes.fisher_mixed_precision.FisherMixedPrecision",
    "toolchain.passes.ordered_gptq.OrderedGptq",
    "toolchain.passes.smooth_activations.SmoothActivations",
)
"""Olive passes beside Olive's own, by where they are."""

OUR_SURGEONS = "toolchain.passes.rotary_tables"
"""Where the graph surgeons are that Olive has not."""

MIN_BLOCK = 16
"""The smallest that ONNX Runtime's kernels know."""

GPTQ_DAMPING = 0.3
"""Part of the mean of the Hessian's diagonal that is added to it: some ten thousand tokens say too little for less. For
Qualcomm's INT4 too, which was measured with 0.1 (docs/adr/0015-qnn.md)."""


@dataclass(frozen=True)
class Recipe:
    """Olive passes in the order they run, as Olive's configuration spells them.

    Args:
        takes: what they begin with: a checkpoint, or the pipeline of graphs that another recipe made.
        makes: the file that is there once they are done.
    """

    passes: dict[str, Pass]
    provider: str
    device: Literal["cpu", "gpu", "npu"] = "cpu"
    takes: Literal["checkpoint", "pipeline"] = "checkpoint"
    makes: str = "model.onnx"

    @property
    def calibration(self) -> list[str]:
        """The calibration data that its passes want, by name."""
        wanted = {step.get("data_config") for step in self.passes.values()}
        return [name for name in CALIBRATION_DATA if name in wanted]

    @property
    def needs_calibration(self) -> bool:
        return bool(self.calibration)

    @property
    def our_modules(self) -> list[str]:
        """The modules of ours that it runs in Olive."""
        types = {step["type"] for step in self.passes.values()}
        passes = (path.rpartition(".") for path in OUR_PASSES)
        return [*(module for module, _, name in passes if name in types), OUR_SURGEONS]

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that decides what Olive writes, checkpoint and calibration text aside."""
        steps = json.dumps([self.provider, list(self.passes.items())], sort_keys=True)
        return hashlib.sha256(steps.encode()).hexdigest()


def plan(profile: Profile, precision: Precision, row_divisor: int) -> Recipe:
    """The recipe for `profile` at `precision`, for a model whose rows of weights are multiples of `row_divisor`.

    Blocks must divide a row of weights. Raises ProfileError if none does, or for a precision that the device cannot
    run.
    """
    quantization, execution = profile.quantization, profile.execution
    require_runnable(precision, execution)
    if precision == "int4":
        passes = _int4(quantization.int4, row_divisor)
    elif precision == "int8":
        passes = _int8(quantization.int8, row_divisor)
    else:
        passes = _as_float(precision)
    return _tied(passes, CUDA if execution.backend == "cuda" else execution.provider)


def require_runnable(precision: Precision, execution: Execution) -> None:
    """Raises ProfileError for a precision that a CPU or CUDA cannot run."""
    if precision == "float32" and execution.backend == "cuda":
        fault = Fault("precision", "must be int4, int8 or float16: attention on CUDA does not compute in float32")
        raise ProfileError([fault], execution.provider)
    if precision == "float16" and execution.backend == "ort":
        fault = Fault("precision", "must be int4, int8 or float32: CPUs compute in float32")
        raise ProfileError([fault], execution.provider)


def plan_calibration_writer() -> Recipe:
    """The recipe of the model that writes calibration text: the float checkpoint's."""
    return _tied(_as_float("float32"), "CPUExecutionProvider")


_SMOOTHING: Pass = {"type": "SmoothActivations", "data_config": CALIBRATION}
_MODEL_BUILDER_FLOATS = {"float16": "fp16", "float32": "fp32"}


def _tied(passes: dict[str, Pass], provider: str) -> Recipe:
    """With head and embedding stored once. Where tables can be computed when the model is loaded, they are."""
    surgeons = ["TieWordEmbeddings"] if provider == CUDA else ["TieWordEmbeddings", "ComputeRotaryTables"]
    tie: Pass = {
        "type": "GraphSurgeries",
        "surgeries": [{"surgeon": surgeon} for surgeon in surgeons],
        "save_as_external_data": True,
    }
    return Recipe(passes | {"tie": tie}, provider, device="gpu" if provider == CUDA else "cpu")


def _as_float(precision: str) -> dict[str, Pass]:
    return {"model_builder": {"type": "ModelBuilder", "precision": _MODEL_BUILDER_FLOATS[precision]}}


def _int4(knobs: Int4, row_divisor: int) -> dict[str, Pass]:
    block, head_block = (fitting(size, row_divisor) for size in (knobs.block_size, knobs.head_block_size))
    layers: Pass = {"bits": 4, "group_size": block, "sym": knobs.symmetric}
    if knobs.algorithm == "gptq":
        layers |= {"type": "OrderedGptq", "data_config": CALIBRATION, "damp_percent": GPTQ_DAMPING}
    else:
        layers |= {"type": {"kquant": "KQuant", "rtn": "Rtn"}[knobs.algorithm]}
    passes: dict[str, Pass] = {"rotation": {"type": "QuaRot"}} if knobs.rotate else {}
    passes["mixed_precision"] = _mixed_precision(knobs, block)
    if knobs.smooth:
        passes["smoothing"] = _SMOOTHING
    passes["layers"] = layers
    passes["head"] = _head(knobs, head_block)
    return passes | {"model_builder": _model_builder(block, knobs.accuracy_level)}


def _head(knobs: Int4, block_size: int) -> Pass:
    head = _round_to_nearest(knobs.head_bits, block_size, knobs.symmetric or knobs.head_bits == 8)
    if knobs.head_bits != 8:  # what chooses layers has marked these two for 8 bits
        own = {"bits": knobs.head_bits, "symmetric": knobs.symmetric}
        head |= {"overrides": {"lm_head": own, "model.embed_tokens": own}}
    return head


def _mixed_precision(knobs: Int4, block: int) -> Pass:
    if knobs.mixed_precision == "fisher":
        step: Pass = {"type": "FisherMixedPrecision", "share": knobs.high_share, "data_config": CALIBRATION}
        return step | {"group_size": block, "sym": knobs.symmetric}
    step = {"type": "SelectiveMixedPrecision", "algorithm": knobs.mixed_precision}
    if knobs.mixed_precision in ("snr_relative", "iqe_relative"):
        step |= {"ratio": 1 - knobs.high_share, "group_size": block, "sym": knobs.symmetric, "high_sym": True}
    return step


def _int8(knobs: Int8, row_divisor: int) -> dict[str, Pass]:
    block, head_block = (fitting(size, row_divisor) for size in (knobs.block_size, knobs.head_block_size))
    passes: dict[str, Pass] = {"smoothing": _SMOOTHING} if knobs.smooth else {}
    passes["layers"] = {"type": "Rtn", "bits": 8, "group_size": block, "sym": knobs.symmetric}
    passes["head"] = _round_to_nearest(8, head_block, knobs.symmetric)
    return passes | {"model_builder": _model_builder(block, knobs.accuracy_level)}


def fitting(block_size: int, row_divisor: int) -> int:
    """The largest block up to `block_size`, by halves, that divides all rows of weights; ProfileError if none does."""
    fits = block_size
    while row_divisor % fits:
        fits //= 2
        if fits < MIN_BLOCK:
            message = (
                f"no block of {MIN_BLOCK} to {block_size} weights divides this model's rows, which are multiples of"
                f" {row_divisor}: choose a precision that does not quantize, such as float32"
            )
            raise ProfileError([Fault("block_size", message)])
    return fits


def _round_to_nearest(bits: int, block_size: int, symmetric: bool) -> Pass:
    """Everything not quantized yet, head and embedding included."""
    return {
        "type": "Rtn",
        "bits": bits,
        "group_size": block_size,
        "sym": symmetric,
        "lm_head": True,
        "embeds": True,
    }


def _model_builder(block_size: int, accuracy_level: int) -> Pass:
    return {
        "type": "ModelBuilder",
        "precision": "int4",
        "int4_block_size": block_size,
        "int4_accuracy_level": accuracy_level,
    }
