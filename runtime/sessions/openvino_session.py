"""The form in which OpenVINO runs a model: many rows on the CPU of a package for the CPU, else one."""

from __future__ import annotations

from pathlib import Path

from ..profile import Profile
from .openvino_paged import OpenVinoPagedSession
from .openvino_stateful import OpenVinoStatefulSession
from .session import Session


def open_openvino(
    model: Path, profile: Profile, *, device: str, slots: int, context_tokens: int, threads: int
) -> Session:
    """Loads the IR `model`, built for `profile`, on `device`. Raises SessionError."""
    execution, kv_dtype = profile.execution, profile.runtime.kv_cache.dtype
    int8_activations = profile.quantization.int4.accuracy_level == 4
    if execution.device == device == "CPU":
        return OpenVinoPagedSession(
            model,
            slots=slots,
            context_tokens=context_tokens,
            threads=threads,
            kv_dtype=kv_dtype,
            int8_activations=int8_activations,
        )
    return OpenVinoStatefulSession(
        model,
        device=device,
        context_tokens=context_tokens,
        threads=threads,
        kv_dtype=kv_dtype,
        int8_activations=int8_activations,
        properties={name: value for name, value in execution.options.items() if name != "device"},
    )
