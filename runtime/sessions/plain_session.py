"""Runs a graph as Optimum exports it, on the CPU: one row, whose KV cache goes through the graph.

Its inputs are `input_ids`, `attention_mask` and `position_ids`, int64 `[1, tokens]`, and `past_key_values.N.key` and
`.value`, float32 `[1, kv_heads, positions, head_dim]`; its outputs `logits` and the same of `present.N`, which are past
and new one behind the other. So every step copies the cache once, within the graph, and computes the logits of every
token: that is why it is slower than the serving graph. What one run gives is bound as it is to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import SessionError
from ..package import OPTIMUM
from .inference import CPU, load, run
from .session import Chunk, Logits, SessionSpec, only_chunk

_PAST, _PRESENT = "past_key_values.", "present."


class PlainSession:
    """`Session` of one row over Optimum's graph. It takes no adapters."""

    def __init__(self, graph: Path, *, context_tokens: int, threads: int) -> None:
        """Loads `graph`. Raises SessionError, also if it is none of Optimum's."""
        self._session = load(graph, _settings(threads), [(CPU, {})])
        inputs = {value.name: value for value in self._session.get_inputs()}
        outputs = {value.name: value for value in self._session.get_outputs()}
        self._names = [name for name in inputs if name.startswith(_PAST)]
        self._positioned = "position_ids" in inputs
        known = {"input_ids", "attention_mask"} <= inputs.keys() and self._names
        if not known or not {"logits", *map(_present, self._names)} <= outputs.keys():
            raise SessionError(f"{graph.name} is no decoder as Optimum exports them; build the package again")
        self._past = [_empty(inputs[name].shape) for name in self._names]
        self._length = 0
        numbers = sum(inputs[name].shape[1] * inputs[name].shape[3] for name in self._names)
        self._spec = SessionSpec(
            vocab_size=outputs["logits"].shape[2],
            context_tokens=context_tokens,
            slots=1,
            kv_bytes_per_token=numbers * np.dtype(np.float32).itemsize,
            provider=f"{CPU} ({OPTIMUM})",
        )

    @property
    def spec(self) -> SessionSpec:
        return self._spec

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        chunk = only_chunk(chunks, self._spec, adapter, held=self._length)
        self._go_back(chunk.start)
        end = chunk.start + len(chunk.tokens)
        io = self._session.io_binding()
        io.bind_cpu_input("input_ids", np.array([chunk.tokens], np.int64))
        io.bind_cpu_input("attention_mask", np.ones((1, end), np.int64))
        if self._positioned:
            io.bind_cpu_input("position_ids", np.arange(chunk.start, end, dtype=np.int64)[None])
        for name, value in zip(self._names, self._past, strict=True):
            io.bind_ortvalue_input(name, value)
            io.bind_output(_present(name), "cpu")
        logits = np.empty((1, len(chunk.tokens), self._spec.vocab_size), np.float32)
        io.bind_output("logits", "cpu", 0, logits.dtype, logits.shape, logits.ctypes.data)
        run(self._session, io)
        self._past, self._length = io.get_outputs()[:-1], end
        return logits[0, len(chunk.tokens) - chunk.logits :]

    def copy(self, source: int, target: int, tokens: int) -> None:
        raise AssertionError("there is one slot")

    def clear(self, slot: int, keep: int = 0) -> None:
        self._go_back(min(keep, self._length))

    def _go_back(self, length: int) -> None:
        """Forgets what is behind the first `length` positions."""
        if length < self._length:
            kept = [np.ascontiguousarray(value.numpy()[:, :, :length]) for value in self._past]
            self._past, self._length = [ort.OrtValue.ortvalue_from_numpy(part) for part in kept], length


def _settings(threads: int) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.enable_mem_pattern = False  # every step has shapes of its own
    settings.enable_cpu_mem_arena = False  # so an arena would keep pieces of every size that a cache has had
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def _present(past: str) -> str:
    return _PRESENT + past.removeprefix(_PAST)


def _empty(shape: Sequence[int | str]) -> ort.OrtValue:
    """A cache of no positions, of the shape `[batch, kv_heads, positions, head_dim]`."""
    nothing: NDArray[np.float32] = np.empty((1, int(shape[1]), 0, int(shape[3])), np.float32)
    return ort.OrtValue.ortvalue_from_numpy(nothing)
