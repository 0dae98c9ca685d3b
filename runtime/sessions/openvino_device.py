"""Models for OpenVINO: read, and compiled for the device that was asked for, never for another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ..errors import SessionError

LOGIT_TOKENS = "logit_tokens"
"""Input of a model that `pick_logits` changed: after which tokens logits are wanted."""


def read_model(path: Path) -> ov.Model:
    """The model at `path`, an OpenVINO IR. Raises SessionError."""
    try:
        return ov.Core().read_model(path)
    except RuntimeError as error:
        raise SessionError(f"cannot read {path.name}: {first_line(error)}; copy the package again") from error


def pick_logits(model: ov.Model, axis: int) -> None:
    """Puts a gather of LOGIT_TOKENS along `axis` in front of the head, so that no other logits are computed."""
    head = model.output("logits").get_node().input_value(0).get_node()
    if head.get_type_name() != "MatMul":
        raise SessionError(f"the model does not end in its head but in {head.get_type_name()}; build the package again")
    wanted = ops.parameter([-1], dtype=np.int64, name=LOGIT_TOKENS)
    wanted.output(0).get_tensor().set_names({LOGIT_TOKENS})
    hidden = ops.gather(head.input_value(0), wanted, ops.constant(axis, dtype=np.int64))
    head.input(0).replace_source_output(hidden.output(0))
    model.add_parameters([wanted])
    model.validate_nodes_and_infer_types()


def compile_model(model: ov.Model, device: str, properties: Mapping[str, str]) -> ov.CompiledModel:
    """Raises SessionError if `device` is not there, or cannot run `model`."""
    core = ov.Core()
    have = core.available_devices
    if not any(name == device or name.startswith(f"{device}.") for name in have):
        raise SessionError(
            f"OpenVINO's {device} was asked for, but OpenVINO {ov.__version__.partition('-')[0]} finds only"
            f" {', '.join(have) or 'no device'} here: install the driver of the {device}, or, to try the package"
            f" without it, ask for one of these with --device"
        )
    try:
        return core.compile_model(model, device, dict(properties))
    except RuntimeError as error:
        raise SessionError(f"OpenVINO's {device} cannot run the model: {first_line(error)}") from error


def cpu_properties(threads: int, kv_dtype: str, *, int8_activations: bool) -> dict[str, str]:
    """What makes OpenVINO's CPU compute the same on every processor: float32, where it would take bfloat16 if it can,
    and a KV cache of `kv_dtype`, one of the profile's."""
    return {
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",  # other programs need the cores too
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": {"float32": "f32", "float16": "f16"}[kv_dtype],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32" if int8_activations else "0",
    }


def infer(request: ov.InferRequest) -> None:
    """Runs a request whose inputs are set. Raises SessionError."""
    try:
        request.infer()
    except RuntimeError as error:
        raise SessionError(f"the model failed to run: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """OpenVINO puts where in its sources it was first, and says what was wrong in the last line."""
    return str(error).strip().splitlines()[-1][:300]
