"""Runs the serving graph (see toolchain.surgery) on ONNX Runtime. With `adapters`, the only door to onnxruntime.

Every layer's keys and values live in one array `[slots, kv_heads, capacity, head_dim]`, and slot i is row i of it. A
run binds a range of rows by pointer, so no step copies a cache, and rows of different lengths share a batch. Bindings
are made once per range of rows and kept while they are in use; a step changes numbers in bound arrays.
"""

from __future__ import annotations

import math
import mmap
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .adapters import Adapter
from .errors import AdapterError, SessionError
from .memory import MappedFile, use_huge_pages

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
import onnxruntime as ort

Logits = NDArray[np.float32]

_KV_DTYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
_BindingKey = tuple[bool, int, int, int, str | None]
_BINDINGS = 64  # kept for each adapter, those used last; a new one takes about a millisecond
_WEIGHTS = "model.onnx.data"
PACKED_WEIGHTS = "packed.data"  # another name: what of it is resident is in use, and must not be forgotten
_PAGE_BYTES = mmap.PAGESIZE
_MAP_NORESERVE = 0x4000  # Linux; Python 3.11 does not name it. Pages are committed when written, not before.


@dataclass(frozen=True)
class SessionSpec:
    """What a loaded session can do. `provider` is what runs, never something else than was asked for."""

    vocab_size: int
    context_tokens: int
    slots: int
    kv_bytes_per_token: int
    provider: str


class Session(Protocol):
    """A model with a KV cache of `spec.slots` rows. Calls come from one thread; a result is valid until the next.

    A call's tokens are computed with `adapter`, one of those that were loaded, or by the model as it is.
    """

    @property
    def spec(self) -> SessionSpec: ...

    def prefill(
        self,
        slot: int,
        tokens: Sequence[int],
        start: int,
        *,
        logits: Literal["last", "all"] = "last",
        adapter: str | None = None,
    ) -> Logits:
        """Computes `tokens` at positions `[start, start + len(tokens))` of `slot`, whose first `start` are there.

        Returns float32 logits `[1, vocab]` of the last token, or `[len(tokens), vocab]` of all.
        """
        ...

    def decode(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        lengths: Sequence[int],
        *,
        adapter: str | None = None,
        even: bool = False,
    ) -> Logits:
        """Computes a token in each of `slots` (ascending), at position `lengths[i]`. Returns `[len(slots), vocab]`.

        With `even`, over an even number of rows, an idle one added: what comes out for a slot is then the same to the
        last bit whatever the other rows are, and however many.
        """
        ...

    def verify(
        self,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        lengths: Sequence[int],
        *,
        adapter: str | None = None,
    ) -> Logits:
        """Computes `tokens[i]` in each of `slots` (ascending), from position `lengths[i]` on.

        Returns logits `[sum of all len(tokens[i]), vocab]`, a row for each token, those of the first slot first.
        """
        ...

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` positions of slot `source` to `target`."""
        ...

    def exchange(self, first: int, first_tokens: int, second: int, second_tokens: int) -> None:
        """Swaps two slots, of which so many positions are filled."""
        ...

    def clear(self, slot: int, keep: int = 0) -> None:
        """Gives the memory of `slot` from position `keep` on back to the system; what was in it is gone."""
        ...


@dataclass
class _Binding:
    """Arrays bound to a run over `rows` slots from `first` on. `tokens` and `logits` may be replaced for one run."""

    session: ort.InferenceSession
    io: ort.IOBinding
    seqlens_k: NDArray[np.int32]
    query_seqlens: NDArray[np.int32]
    total_sequence_length: NDArray[np.int32]
    tokens: NDArray[np.int64]
    logit_rows: NDArray[np.int64]
    logits: Logits


class OrtSession:
    """`Session` on an ONNX Runtime execution provider with shared KV buffers, float32 or int8 as the graph has them."""

    def __init__(
        self,
        graph: Path,
        *,
        slots: int,
        context_tokens: int,
        threads: int,
        prefill_threads: int | None = None,
        provider: str = "CPUExecutionProvider",
        provider_options: Mapping[str, str] | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """Loads `graph`. Raises SessionError if it is not a serving graph or `provider` cannot run it, and AdapterError
        if the graph cannot take one of `adapters`.

        With other `prefill_threads` than `threads` it is loaded twice. Graphs that `pack` wrote share their weights
        then; of others, both have a copy.
        """
        self._ort = self._prefill_ort = _load(graph, threads, provider, provider_options or {})
        if prefill_threads not in (None, threads):
            self._prefill_ort = _load(graph, prefill_threads, provider, provider_options or {})
        self._adapters = {adapter.name: adapter for adapter in adapters}
        for adapter in adapters:
            self._require_taken(adapter)
        self._weights = MappedFile(graph.with_name(_WEIGHTS))
        self._weights.forget()
        use_huge_pages()  # before there is a KV cache
        self._caches = [i.name for i in self._ort.get_inputs() if i.name.startswith("past_key_values.")]
        kv_heads, head_dim, dtype = self._kv_layout(graph)
        vocab_size = next(o.shape[1] for o in self._ort.get_outputs() if o.name == "logits")
        # Rows start on a page, so that clearing one gives back whole pages of its own.
        capacity = _round_up(context_tokens, max(1, _PAGE_BYTES // (head_dim * dtype.itemsize)))
        self._rows = _round_up(slots, 2)  # a decode of an even number of rows may need an idle one
        self._memory, self._kv = _allocate((len(self._caches), self._rows, kv_heads, capacity, head_dim), dtype)
        # One for all bindings: results live until the next run.
        self._logits = np.zeros((self._rows, vocab_size), np.float32)
        self._bindings: OrderedDict[_BindingKey, _Binding] = OrderedDict()
        self._spec = SessionSpec(
            vocab_size=vocab_size,
            context_tokens=context_tokens,
            slots=slots,
            kv_bytes_per_token=len(self._caches) * kv_heads * head_dim * dtype.itemsize,
            provider=provider,
        )

    @property
    def spec(self) -> SessionSpec:
        return self._spec

    def prefill(
        self,
        slot: int,
        tokens: Sequence[int],
        start: int,
        *,
        logits: Literal["last", "all"] = "last",
        adapter: str | None = None,
    ) -> Logits:
        chunk = np.asarray(tokens, np.int64).reshape(1, -1)
        count = chunk.shape[1]
        assert 0 < count <= self._spec.context_tokens - start
        binding = self._binding(slot, 1, 1, adapter, prefill=True)
        binding.seqlens_k[0] = start + count - 1
        binding.query_seqlens[0] = count
        binding.total_sequence_length[()] = start + count
        return self._run_with(binding, chunk, np.arange(count) if logits == "all" else np.array([count - 1]))

    def decode(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        lengths: Sequence[int],
        *,
        adapter: str | None = None,
        even: bool = False,
    ) -> Logits:
        first, rows, logits = slots[0], slots[-1] - slots[0] + 1, len(slots)
        if even:
            if rows % 2:
                first, rows = min(first, self._rows - rows - 1), rows + 1
            logits += logits % 2
        binding = self._binding(first, rows, logits, adapter)
        at = np.asarray(slots) - first
        binding.tokens[at, 0] = tokens
        binding.seqlens_k[at] = lengths
        binding.query_seqlens[:] = 0
        binding.query_seqlens[at] = 1
        binding.total_sequence_length[()] = max(lengths) + 1
        binding.logit_rows[: len(slots)] = at
        binding.logit_rows[len(slots) :] = at[-1]
        if len(slots) < rows:  # an idle row still has to name a length that is inside the cache
            binding.seqlens_k[binding.query_seqlens == 0] = 0
        self._run(binding)
        return binding.logits[: len(slots)]

    def verify(
        self,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        lengths: Sequence[int],
        *,
        adapter: str | None = None,
    ) -> Logits:
        first, rows = slots[0], slots[-1] - slots[0] + 1
        counts = np.array([len(its) for its in tokens])
        width = int(counts.max())
        binding = self._binding(first, rows, 1, adapter)
        at = np.asarray(slots) - first
        padded = np.zeros((rows, width), np.int64)
        for row, its in zip(at, tokens, strict=True):
            padded[row, : len(its)] = its
        binding.seqlens_k[:] = 0
        binding.seqlens_k[at] = lengths + counts - 1
        binding.query_seqlens[:] = 0
        binding.query_seqlens[at] = counts
        binding.total_sequence_length[()] = int((lengths + counts).max())
        places = np.concatenate([row * width + np.arange(count) for row, count in zip(at, counts, strict=True)])
        return self._run_with(binding, padded, places)

    def copy(self, source: int, target: int, tokens: int) -> None:
        for cache in self._kv:
            cache[target, :, :tokens] = cache[source, :, :tokens]

    def exchange(self, first: int, first_tokens: int, second: int, second_tokens: int) -> None:
        for cache in self._kv:
            kept = cache[second, :, :second_tokens].copy()
            cache[second, :, :first_tokens] = cache[first, :, :first_tokens]
            cache[first, :, :second_tokens] = kept
        self._give_back(first, second_tokens)
        self._give_back(second, first_tokens)

    def read_kv(self, slot: int, tokens: int) -> dict[str, NDArray[np.generic]]:
        """The first `tokens` positions of a slot, by cache input of the graph: `[kv_heads, tokens, head_dim]`."""
        return {name: cache[slot, :, :tokens] for name, cache in zip(self._caches, self._kv, strict=True)}

    def clear(self, slot: int, keep: int = 0) -> None:
        self._give_back(slot, keep)
        self._weights.forget()  # the embeddings of its tokens

    def _give_back(self, slot: int, keep: int) -> None:
        """Whole pages after the first `keep` positions of each head."""
        _, kv_heads, capacity, head_dim = self._kv[0].shape
        position_bytes = head_dim * self._kv[0].itemsize
        head_bytes = capacity * position_bytes
        kept_bytes = _round_up(keep * position_bytes, _PAGE_BYTES)
        if kept_bytes == head_bytes:
            return
        heads, length = (kv_heads, head_bytes) if keep else (1, kv_heads * head_bytes)
        for layer in range(len(self._caches)):
            row = (layer * self._rows + slot) * kv_heads * head_bytes
            for head in range(heads):
                self._memory.madvise(mmap.MADV_DONTNEED, row + head * head_bytes + kept_bytes, length - kept_bytes)

    def _kv_layout(self, graph: Path) -> tuple[int, int, np.dtype[np.generic]]:
        """(kv_heads, head_dim, dtype) of the graph."""
        wanted = {"input_ids", "seqlens_k", "total_sequence_length", "query_seqlens", "logit_rows"}
        inputs = {i.name: i for i in self._ort.get_inputs()}
        if missing := wanted - inputs.keys():
            raise SessionError(f"{graph.name} is not a serving graph: it lacks {', '.join(sorted(missing))}")
        cache = inputs[self._caches[0]]
        if cache.type not in _KV_DTYPES:
            raise SessionError(f"{graph.name} keeps its KV as {cache.type}; this runtime knows {', '.join(_KV_DTYPES)}")
        return cache.shape[1], cache.shape[3], np.dtype(_KV_DTYPES[cache.type])

    def _require_taken(self, adapter: Adapter) -> None:
        """Raises AdapterError unless each of the adapter's tensors is an input of the graph, of its size."""
        inputs = {i.name: i for i in self._ort.get_overridable_initializers()}
        for name, tensor in adapter.tensors.items():
            if name not in inputs:
                raise AdapterError(f"the adapter {adapter.path} changes {name}, which this model does not let it")
            wanted, shape = inputs[name].shape, tensor.shape()
            if any(isinstance(size, int) and size != got for size, got in zip(wanted, shape, strict=True)):
                raise AdapterError(f"the adapter {adapter.path} does not fit: {name} is {shape}, not {wanted}")

    def _binding(self, first: int, rows: int, logits: int, adapter: str | None, *, prefill: bool = False) -> _Binding:
        session = self._prefill_ort if prefill else self._ort
        key = (session is self._ort, first, rows, logits, adapter)
        if key not in self._bindings:
            if len(self._bindings) == _BINDINGS * (1 + len(self._adapters)):
                self._bindings.popitem(last=False)
            self._bindings[key] = self._bind(session, first, rows, logits, adapter)
        self._bindings.move_to_end(key)
        return self._bindings[key]

    def _bind(self, session: ort.InferenceSession, first: int, rows: int, logits: int, adapter: str | None) -> _Binding:
        binding = _Binding(
            session=session,
            io=session.io_binding(),
            seqlens_k=np.zeros(rows, np.int32),
            query_seqlens=np.zeros(rows, np.int32),
            total_sequence_length=np.array(1, np.int32),
            tokens=np.zeros((rows, 1), np.int64),
            logit_rows=np.zeros(logits, np.int64),
            logits=self._logits[:logits],
        )
        _bind_input(binding.io, "input_ids", binding.tokens)
        _bind_input(binding.io, "seqlens_k", binding.seqlens_k)
        _bind_input(binding.io, "query_seqlens", binding.query_seqlens)
        _bind_input(binding.io, "total_sequence_length", binding.total_sequence_length)
        _bind_input(binding.io, "logit_rows", binding.logit_rows)
        _bind_output(binding.io, "logits", binding.logits)
        for name, cache in zip(self._caches, self._kv, strict=True):
            view = cache[first : first + rows]
            _bind_input(binding.io, name, view)
            _bind_output(binding.io, name.replace("past_key_values.", "present."), view)
        if adapter is not None:  # without one, the graph's own empty tensors count
            for name, tensor in self._adapters[adapter].tensors.items():
                binding.io.bind_ortvalue_input(name, tensor)
        return binding

    def _run_with(self, binding: _Binding, tokens: NDArray[np.int64], logit_rows: NDArray[np.int64]) -> Logits:
        """One run with other tokens `[rows, any width]` than the bound ones; returns logits of the places in them."""
        count = logit_rows.size
        logits = self._logits[:count]
        if len(logits) < count:
            logits = np.empty((count, self._spec.vocab_size), np.float32)
        _bind_input(binding.io, "input_ids", tokens)
        _bind_input(binding.io, "logit_rows", logit_rows)
        _bind_output(binding.io, "logits", logits)
        try:
            self._run(binding)
        finally:
            _bind_input(binding.io, "input_ids", binding.tokens)
            _bind_input(binding.io, "logit_rows", binding.logit_rows)
            _bind_output(binding.io, "logits", binding.logits)
        return logits

    def _run(self, binding: _Binding) -> None:
        try:
            binding.session.run_with_iobinding(binding.io)
        except Exception as error:  # onnxruntime raises plain RuntimeErrors of many classes
            raise SessionError(f"the model failed to run: {_first_line(error)}") from error


def pack(graph: Path, folder: Path) -> Path:
    """Writes `graph` to `folder` with its weights in the layout of this processor's kernels; returns the new graph.

    Sessions map such weights, and several share them, where those of `graph` are copied by each. They are for this
    processor and this onnxruntime only, and take more than twice the room of the weights. Raises SessionError.
    """
    packed = folder / graph.name
    settings = _settings(threads=1)
    settings.optimized_model_filepath = str(packed)
    settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", PACKED_WEIGHTS)
    settings.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    settings.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    try:
        ort.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises plain RuntimeErrors of many classes
        raise SessionError(f"cannot pack {graph.name}: {_first_line(error)}") from error
    return packed


def _load(graph: Path, threads: int, provider: str, options: Mapping[str, str]) -> ort.InferenceSession:
    if provider not in ort.get_available_providers():
        have = ", ".join(ort.get_available_providers())
        raise SessionError(f"{provider} was asked for, but this onnxruntime {ort.__version__} has only {have}")
    settings = _settings(threads)
    if provider != "CPUExecutionProvider":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        return ort.InferenceSession(str(graph), settings, providers=[provider], provider_options=[dict(options)])
    except Exception as error:  # onnxruntime raises plain RuntimeErrors of many classes
        raise SessionError(f"cannot load {graph.name}: {_first_line(error)}") from error


def _settings(threads: int) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.enable_mem_pattern = False  # it keeps a plan for every shape, and here every prompt has its own
    # Spin inside a run, where work follows in microseconds; never between runs, where others need the cores.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1")
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def _allocate(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> tuple[mmap.mmap, list[NDArray[np.generic]]]:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
    return memory, list(np.frombuffer(memory, dtype).reshape(shape))


def _bind_input(io: ort.IOBinding, name: str, array: NDArray[np.generic]) -> None:
    io.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _bind_output(io: ort.IOBinding, name: str, array: NDArray[np.generic]) -> None:
    io.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
