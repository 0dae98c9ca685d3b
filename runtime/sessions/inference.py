"""Inference sessions of ONNX Runtime: loaded and run, with its errors made ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import SessionError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
import onnxruntime as ort

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

Provider = tuple[str, dict[str, str]]
"""An execution provider and its options."""


def load(graph: Path, settings: ort.SessionOptions, providers: Sequence[Provider]) -> ort.InferenceSession:
    """Loads `graph` for the first of `providers`; the others take what it leaves.

    Raises SessionError if that one is not there, does not start, or, unless it is the CPU's, leaves nodes to the CPU.
    """
    provider = providers[0][0]
    if provider not in (have := ort.get_available_providers()):
        raise SessionError(
            f"{provider} was asked for, but this onnxruntime {ort.__version__} has only {', '.join(have)}"
            f"{'; install onnxruntime-gpu in its place' if provider == CUDA else ''}"
        )
    if provider != CPU:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings.log_severity_level = 4  # it raises its errors too; lines of its own would go past the log, and could block
    try:
        session = ort.InferenceSession(str(graph), settings, providers=list(providers))
    except Exception as error:  # onnxruntime raises plain RuntimeErrors of many classes
        raise SessionError(f"cannot load {graph.name}: {first_line(error)}") from error
    if provider not in session.get_providers():
        raise SessionError(f"{provider} did not start: are its libraries there, in the versions that it needs?")
    return session


def run(session: ort.InferenceSession, io: ort.IOBinding, options: ort.RunOptions | None = None) -> None:
    """Runs what is bound. Raises SessionError."""
    try:
        session.run_with_iobinding(io, options)
    except Exception as error:  # as above
        raise SessionError(f"the model failed to run: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What onnxruntime says, without the places in its sources."""
    return str(error).strip().splitlines()[0][:300]
