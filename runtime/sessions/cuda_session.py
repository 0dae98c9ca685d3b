"""Runs the rectangular serving graph (see toolchain.surgery) on CUDA, with the KV cache in the GPU's memory.

A step there is bound by the host, which launches some hundred kernels: so every run is captured in a CUDA graph and
replayed (measured: 1.2 instead of 2.0 ms a token). A graph is of one shape and one place in the cache, so there are few
of both: rows run in aligned blocks of 1, 2, 4, ... slots, chunks of prompts in widths of 16, 32, ... tokens.

The kernels take either one token of each of several rows, or several tokens of one row.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import SessionError
from .inference import CPU, CUDA, Provider, load, run
from .session import Chunk, Logits, SessionSpec

_KV_DTYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(int8)": np.int8}
_WIDTHS = (16, 32, 64, 128, 256, 512)
_NO_GRAPH = -1
_DEVICE_TO_DEVICE = 3  # cudaMemcpyKind
_CUDA_OPTIONS = {"enable_cuda_graph": "1", "arena_extend_strategy": "kSameAsRequested"}


@dataclass(frozen=True)
class _Shape:
    """Of a run: `rows` slots from `first` on, `width` tokens of each, and logits of so many tokens."""

    first: int
    rows: int
    width: int
    logits: int

    @property
    def common(self) -> bool:
        """Whether it comes again and again: a token of each row, or a padded chunk with at most one row of logits."""
        return self.width == 1 or (self.width in _WIDTHS and self.logits == 1)


class CudaSession:
    """`Session` on CUDA, or, to check what it computes where there is no GPU, on the CPU provider.

    Memory is taken when it is made, `slots * context_tokens * kv_bytes_per_token`, and kept until the end.
    """

    def __init__(
        self,
        graph: Path,
        *,
        slots: int,
        context_tokens: int,
        provider: str = CUDA,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        """Loads `graph`. Raises SessionError if it is not a rectangular serving graph, or `provider` cannot run it."""
        self._ort = _load(graph, provider, provider_options or {})
        self._device = "cpu" if provider == CPU else "cuda"
        self._kv = _DeviceKV(self._ort, self._device, slots, context_tokens)
        self._lengths = [0] * slots
        self._runs: dict[_Shape, _Run] = {}
        self._graphs = itertools.count(1)
        self._spec = SessionSpec(
            vocab_size=next(value.shape[1] for value in self._ort.get_outputs() if value.name == "logits"),
            context_tokens=context_tokens,
            slots=slots,
            kv_bytes_per_token=self._kv.bytes_per_token,
            provider=provider,
            many_logits=False,
            deterministic=False,
        )

    @property
    def spec(self) -> SessionSpec:
        return self._spec

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        assert adapter is None
        assert not deterministic
        assert all(0 < len(chunk.tokens) <= self._spec.context_tokens - chunk.start for chunk in chunks)
        results = {chunk.slot: self._read(chunk) for chunk in chunks if len(chunk.tokens) > 1}
        if single := [chunk for chunk in chunks if len(chunk.tokens) == 1]:
            results |= self._decode(single)
        return np.concatenate([results[chunk.slot][: chunk.logits] for chunk in chunks])

    def _decode(self, chunks: Sequence[Chunk]) -> dict[int, Logits]:
        """A token of each of several rows. Rows between them write one behind their end, where nothing is read."""
        first, rows = _block(chunks[0].slot, chunks[-1].slot, self._spec.slots)
        tokens = np.zeros(rows, np.int64)
        last = np.minimum(self._lengths[first : first + rows], self._spec.context_tokens - 1)
        for chunk in chunks:
            tokens[chunk.slot - first] = chunk.tokens[0]
            last[chunk.slot - first] = chunk.start
            self._lengths[chunk.slot] = chunk.start + 1
        logits = self._run(_Shape(first, rows, width=1, logits=rows))(tokens, last, np.arange(rows))
        return {chunk.slot: logits[chunk.slot - first :][:1] for chunk in chunks}

    def _read(self, chunk: Chunk) -> Logits:
        """Several tokens of a row, in parts that there are graphs for."""
        end = len(chunk.tokens)
        parts = []
        for at in range(0, end, _WIDTHS[-1]):
            tokens = chunk.tokens[at : at + _WIDTHS[-1]]
            wanted = min(len(tokens), max(0, at + len(tokens) - (end - chunk.logits)))
            parts.append(self._read_part(Chunk(chunk.slot, tokens, chunk.start + at, wanted)))
        self._lengths[chunk.slot] = chunk.start + end
        return np.concatenate(parts)

    def _read_part(self, chunk: Chunk) -> Logits:
        """Padded, if there is room: what padding writes lies behind the row's end."""
        count, room = len(chunk.tokens), self._spec.context_tokens - chunk.start
        width = next((width for width in _WIDTHS if count <= width <= room), count)
        tokens = np.zeros(width, np.int64)
        tokens[:count] = chunk.tokens
        logits = max(1, chunk.logits)
        run = self._run(_Shape(chunk.slot, 1, width, logits))
        return run(tokens, np.array([chunk.start + width - 1]), np.arange(count - logits, count))[: chunk.logits]

    def copy(self, source: int, target: int, tokens: int) -> None:
        self._kv.copy(source, target, tokens)
        self._lengths[target] = tokens

    def read_kv(self, slot: int, tokens: int) -> dict[str, NDArray[np.generic]]:
        """The first `tokens` positions of a slot, by cache input of the graph: `[kv_heads, tokens, head_dim]`."""
        return self._kv.read(slot, tokens)

    def clear(self, slot: int, keep: int = 0) -> None:
        """The memory stays. What is in it is overwritten before attention reaches it."""
        self._lengths[slot] = keep

    def _run(self, shape: _Shape) -> _Run:
        if shape not in self._runs:
            graph = next(self._graphs) if self._device == "cuda" and shape.common else _NO_GRAPH
            self._runs[shape] = _Run(self._ort, self._kv, shape, self._spec.vocab_size, graph)
        return self._runs[shape]


class _DeviceKV:
    """Keys and values of all layers, each an array `[slots, kv_heads, capacity, head_dim]` on the device."""

    def __init__(self, session: ort.InferenceSession, device: str, slots: int, capacity: int) -> None:
        """Raises SessionError if the graph is of another form."""
        inputs = {value.name: value for value in session.get_inputs()}
        self._names = [name for name in inputs if name.startswith("past_key_values.")]
        if "row_tokens" in inputs or not {"seqlens_k", "logit_tokens"} <= inputs.keys():
            raise SessionError("the graph is not a serving graph for CUDA of this version; build the package again")
        layer = inputs[self._names[0]]
        self.device, self.capacity = device, capacity
        self._kv_heads, self._head_dim, self._dtype = layer.shape[1], layer.shape[3], np.dtype(_KV_DTYPES[layer.type])
        self._position_bytes: int = self._head_dim * self._dtype.itemsize
        self._head_bytes = capacity * self._position_bytes
        self._row_bytes = self._kv_heads * self._head_bytes
        shape = (slots, self._kv_heads, capacity, self._head_dim)
        # Zeros, since what is masked still counts where it is not a number.
        self._caches = [ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, self._dtype), device, 0) for _ in self._names]

    @property
    def bytes_per_token(self) -> int:
        return len(self._names) * int(self._kv_heads) * self._position_bytes

    def bind(self, io: ort.IOBinding, first: int, rows: int) -> None:
        """Binds `rows` slots from `first` on, as past and as present."""
        shape = [rows, self._kv_heads, self.capacity, self._head_dim]
        for name, layer in zip(self._names, self._caches, strict=True):
            at = layer.data_ptr() + first * self._row_bytes
            io.bind_input(name, self.device, 0, self._dtype, shape, at)
            io.bind_output(name.replace("past_key_values.", "present."), self.device, 0, self._dtype, shape, at)

    def copy(self, source: int, target: int, tokens: int) -> None:
        for layer in self._caches:
            to, of = (layer.data_ptr() + slot * self._row_bytes for slot in (target, source))
            _copy(self.device, to, of, self._head_bytes, tokens * self._position_bytes, self._kv_heads)

    def read(self, slot: int, tokens: int) -> dict[str, NDArray[np.generic]]:
        return {name: layer.numpy()[slot, :, :tokens] for name, layer in zip(self._names, self._caches, strict=True)}


class _Run:
    """Arrays at fixed addresses, bound once: a CUDA graph reads and writes where it did when it was captured."""

    def __init__(
        self, session: ort.InferenceSession, kv: _DeviceKV, shape: _Shape, vocab_size: int, graph: int
    ) -> None:
        self._session, self._io, self._options = session, session.io_binding(), ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph))
        # A graph does not see this number change; it only has to be no less than the longest row.
        self._total = np.array(kv.capacity, np.int32)
        self._io.bind_input("total_sequence_length", "cpu", 0, np.int32, [], self._total.ctypes.data)

        def bound(name: str, array: NDArray[np.generic]) -> ort.OrtValue:
            value = ort.OrtValue.ortvalue_from_numpy(array, kv.device, 0)
            self._io.bind_ortvalue_input(name, value)
            return value

        self._tokens = bound("input_ids", np.zeros((shape.rows, shape.width), np.int64))
        self._last = bound("seqlens_k", np.zeros(shape.rows, np.int32))
        self._logit_tokens = bound("logit_tokens", np.zeros(shape.logits, np.int64))
        kv.bind(self._io, shape.first, shape.rows)
        self._logits = ort.OrtValue.ortvalue_from_numpy(np.zeros((shape.logits, vocab_size), np.float32), kv.device, 0)
        self._io.bind_ortvalue_output("logits", self._logits)

    def __call__(self, tokens: NDArray[np.int64], last: NDArray[np.int64], logit_tokens: NDArray[np.int64]) -> Logits:
        """Runs tokens, row by row; `last` is the position of each row's last, `logit_tokens` which get logits."""
        self._tokens.update_inplace(tokens.reshape(self._tokens.shape()))
        self._last.update_inplace(last.astype(np.int32))
        self._logit_tokens.update_inplace(logit_tokens)
        run(self._session, self._io, self._options)
        logits: Logits = self._logits.numpy()
        return logits


def _block(first: int, last: int, slots: int) -> tuple[int, int]:
    """The smallest aligned block of 1, 2, 4, ... slots that has both: where it begins, and its size."""
    size = 1
    while first // size != last // size:
        size *= 2
    begin = first // size * size
    return begin, min(size, slots - begin)


def _load(graph: Path, provider: str, options: Mapping[str, str]) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.enable_mem_pattern = False
    if provider != CPU:
        ort.preload_dlls()  # CUDA's libraries, where Python packages brought them
        # It would unpack the tied embedding, for nothing: 0.7 GB for Qwen2.5-0.5B.
        settings.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    return load(graph, settings, _providers(provider, dict(options)))


def _providers(provider: str, options: dict[str, str]) -> list[Provider]:
    """TensorRT leaves to CUDA what it does not know."""
    if provider == CPU:
        return [(CPU, options)]
    if provider == CUDA:
        return [(CUDA, _CUDA_OPTIONS | options)]
    return [(provider, options), (CUDA, _CUDA_OPTIONS)]


def _copy(device: str, target: int, source: int, pitch_bytes: int, width_bytes: int, count: int) -> None:
    """Copies `count` pieces of `width_bytes`, which lie `pitch_bytes` apart on both sides."""
    if device == "cpu":
        for at in range(0, count * pitch_bytes, pitch_bytes):
            ctypes.memmove(target + at, source + at, width_bytes)
        return
    pitch, width, height = (ctypes.c_size_t(size) for size in (pitch_bytes, width_bytes, count))
    to, of = ctypes.c_void_p(target), ctypes.c_void_p(source)
    status = _cuda_runtime().cudaMemcpy2D(to, pitch, of, pitch, width, height, _DEVICE_TO_DEVICE)
    if status != 0:
        raise SessionError(f"CUDA cannot copy a row of the KV cache: error {status}")


@cache
def _cuda_runtime() -> ctypes.CDLL:
    """The one that onnxruntime has loaded."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return ctypes.CDLL(next(line.split()[-1] for line in maps if "libcudart" in line))
