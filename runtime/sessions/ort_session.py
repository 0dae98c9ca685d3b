"""Runs the packed serving graph (see toolchain.surgery) on ONNX Runtime, on the CPU.

Every layer's keys and values live in one array `[slots, kv_heads, capacity, head_dim]`, and slot i is row i of it. A
run binds a range of rows by pointer, so no step copies a cache, and rows of different lengths share a batch. Bindings
are made once per range of rows and kept while they are in use; a run changes numbers in bound arrays.
"""

from __future__ import annotations

import math
import mmap
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import AdapterError, SessionError
from ..memory import MappedFile, use_huge_pages
from .adapters import Adapter
from .inference import CPU, first_line, load, run
from .session import Chunk, Logits, SessionSpec

_Array = TypeVar("_Array", bound=NDArray[np.generic])
_KV_DTYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
_BindingKey = tuple[bool, int, int, str | None]
_BINDINGS = 64  # kept for each adapter, those used last; a new one takes about a millisecond
_WIDEST_CHUNK = 4096  # beside a row that is nearly full; no profile has longer ones
_MANY_TOKENS = 8  # from so many on a run is bound by arithmetic more than by memory: it is run as prefill is
_WEIGHTS = "model.onnx.data"
PACKED_WEIGHTS = "packed.data"  # another name: what of it is resident is in use, and must not be forgotten
_PAGE_BYTES = mmap.PAGESIZE
_MAP_NORESERVE = 0x4000  # Linux; Python 3.11 does not name it. Pages are committed when written, not before.


_Layout = tuple[bool, bool, tuple[tuple[int, int, int], ...]]
"""Of a run: whether it is deterministic, whether that takes even numbers, and row, tokens and logits of each chunk."""


class _Binding:
    """Arrays bound to runs over `rows` slots. Those that say which tokens are whose last while runs are laid out alike,
    as decodes mostly are."""

    def __init__(self, session: ort.InferenceSession, rows: int, logits: Logits) -> None:
        self.session = session
        self.io = session.io_binding()
        self.seqlens_k = self._bound("seqlens_k", np.zeros(rows, np.int32))
        self.query_seqlens = self._bound("query_seqlens", np.zeros(rows, np.int32))
        self.total_sequence_length = self._bound("total_sequence_length", np.array(1, np.int32))
        self._rows, self._logits = rows, logits
        self._layout: _Layout | None = None
        self._size: tuple[int, int, int] | None = None

    def lay_out(self, layout: _Layout) -> None:
        """Prepares all but the tokens and their positions."""
        if layout == self._layout:
            return
        self._layout = layout
        deterministic, in_pairs, chunks = layout
        at, counts, wanted = np.array(chunks).T
        ends = np.cumsum(counts)
        width, tokens, logits = int(counts.max()), int(ends[-1]), int(wanted.sum())
        # See docs/adr/0012-determinism.md: a token rounds in one way in any run that has several of a row, or a place
        # for them, and, where kernels take pairs, an even number of tokens and of logits.
        if deterministic:
            width = max(width, 2)
        self._resize(
            _round_up(tokens, 2) if in_pairs and width > 1 else tokens,
            width,
            _round_up(logits, 2) if in_pairs and deterministic else logits,
        )
        self.seqlens_k[:] = 0  # an idle row still has to name a length that is inside the cache
        self.query_seqlens[:] = 0
        self.query_seqlens[at] = counts
        begins = ends - counts
        self._row_tokens[at] = np.minimum(begins[:, None] + np.arange(width), tokens - 1)
        self._token_places[:tokens, 0] = np.repeat(at, counts)
        self._token_places[:tokens, 1] = np.arange(tokens) - np.repeat(begins, counts)
        self._logit_tokens[:logits] = np.repeat(ends - np.cumsum(wanted), wanted) + np.arange(logits)
        self._at, self._counts, self._width = at, counts, width
        self.tokens, self.logits = self._all_tokens[:tokens], self._all_logits[:logits]

    def place(self, starts: Sequence[int]) -> None:
        """Says at which position each chunk begins."""
        ends = np.add(starts, self._counts)
        self.seqlens_k[self._at] = ends - 1
        self.total_sequence_length[()] = max(ends.max(), self._width)  # the kernel refuses less

    def _resize(self, tokens: int, width: int, logits: int) -> None:
        if self._size == (size := (tokens, width, logits)):
            return
        self._size = size
        self._all_tokens = self._bound("input_ids", np.zeros(tokens, np.int64))
        self._row_tokens = self._bound("row_tokens", np.zeros((self._rows, width), np.int64))
        self._token_places = self._bound("token_places", np.zeros((tokens, 2), np.int64))
        self._logit_tokens = self._bound("logit_tokens", np.zeros(logits, np.int64))
        self._all_logits = self._logits[:logits]
        if logits > len(self._logits):
            self._all_logits = np.empty((logits, self._logits.shape[1]), np.float32)
        _bind_output(self.io, "logits", self._all_logits)

    def _bound(self, name: str, array: _Array) -> _Array:
        _bind_input(self.io, name, array)
        return array


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
        self._graph, self._provider, self._options = graph, provider, dict(provider_options or {})
        self._threads, self._prefill_threads = threads, prefill_threads or threads
        self._threads_at_most = self._most_threads = max(threads, self._prefill_threads)
        self._ort: ort.InferenceSession
        self._load(self._threads_at_most)
        self._adapters = {adapter.name: adapter for adapter in adapters}
        for adapter in adapters:
            self._require_taken(adapter)
        self._caches = [i.name for i in self._ort.get_inputs() if i.name.startswith("past_key_values.")]
        kv_heads, head_dim, dtype = self._kv_layout(graph)
        vocab_size = next(o.shape[1] for o in self._ort.get_outputs() if o.name == "logits")
        # The kernel wants room behind each row for the widest chunk of the run, and writes nothing there. Rows start on
        # a page, so that clearing one gives back whole pages of its own.
        capacity = context_tokens + min(context_tokens, _WIDEST_CHUNK)
        capacity = _round_up(capacity, max(1, _PAGE_BYTES // (head_dim * dtype.itemsize)))
        self._memory, self._kv = _allocate((len(self._caches), slots, kv_heads, capacity, head_dim), dtype)
        # One for all bindings: results live until the next run.
        self._logits = np.zeros((_round_up(slots, 2), vocab_size), np.float32)
        self._bindings: OrderedDict[_BindingKey, _Binding] = OrderedDict()
        self._in_pairs: bool | None = None  # whether kernels take tokens so; found out when it first matters
        self._spec = SessionSpec(
            vocab_size=vocab_size,
            context_tokens=context_tokens,
            slots=slots,
            kv_bytes_per_token=len(self._caches) * kv_heads * head_dim * dtype.itemsize,
            provider=provider,
            frees_kv=True,
            threads=self._threads_at_most if provider == CPU else None,
        )

    @property
    def spec(self) -> SessionSpec:
        return self._spec

    def limit_threads(self, most: int) -> None:
        """As in `ThreadedSession`. The model is loaded again, as a session of ONNX Runtime has its threads for good.

        The old one goes first, so that memory is that of one. The rows are ours, and stay.
        """
        before = self._most_threads
        if most == before:
            return
        self._bindings.clear()
        self._ort = self._prefill_ort = None
        try:
            self._load(min(most, self._threads_at_most))
        except SessionError:
            self._load(before)
            raise

    def _load(self, most_threads: int) -> None:
        """Sessions of at most so many threads."""
        threads, prefill_threads = min(self._threads, most_threads), min(self._prefill_threads, most_threads)
        self._ort = self._prefill_ort = _load(self._graph, threads, self._provider, self._options)
        if prefill_threads != threads:
            self._prefill_ort = _load(self._graph, prefill_threads, self._provider, self._options)
        self._most_threads = most_threads
        self._weights = MappedFile(self._graph.with_name(_WEIGHTS))
        self._weights.forget()
        use_huge_pages()  # a KV cache that is partly filled stays as it is

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        if deterministic and self._in_pairs is None:
            self._in_pairs = self._odd_one_differs(chunks[0], adapter)
        return self._compute(chunks, adapter, deterministic, in_pairs=self._in_pairs is not False)

    def _compute(self, chunks: Sequence[Chunk], adapter: str | None, deterministic: bool, *, in_pairs: bool) -> Logits:
        if self._ort is None:  # there was no memory for it when its threads were changed
            self._load(self._most_threads)
        first, rows = chunks[0].slot, chunks[-1].slot - chunks[0].slot + 1
        assert all(0 < len(chunk.tokens) <= self._spec.context_tokens - chunk.start for chunk in chunks)
        tokens = list(chain.from_iterable(chunk.tokens for chunk in chunks))
        binding = self._binding(first, rows, adapter, many=len(tokens) >= _MANY_TOKENS)
        its = tuple((chunk.slot - first, len(chunk.tokens), chunk.logits) for chunk in chunks)
        binding.lay_out((deterministic, in_pairs, its))
        binding.place([chunk.start for chunk in chunks])
        binding.tokens[:] = tokens
        run(binding.session, binding.io)
        return binding.logits

    def _odd_one_differs(self, chunk: Chunk, adapter: str | None) -> bool:
        """Whether kernels compute the odd one of some tokens otherwise than those in pairs.

        It is tried on the first token of `chunk`, which a run is about to compute again.
        """
        one = [Chunk(chunk.slot, chunk.tokens[:1], chunk.start)]
        in_a_pair, alone = (
            self._compute(one, adapter, deterministic=True, in_pairs=in_pairs).tobytes() for in_pairs in (True, False)
        )
        return in_a_pair != alone

    def copy(self, source: int, target: int, tokens: int) -> None:
        for cache in self._kv:
            cache[target, :, :tokens] = cache[source, :, :tokens]

    def read_kv(self, slot: int, tokens: int) -> dict[str, NDArray[np.generic]]:
        """The first `tokens` positions of a slot, by cache input of the graph: `[kv_heads, tokens, head_dim]`."""
        return {name: cache[slot, :, :tokens] for name, cache in zip(self._caches, self._kv, strict=True)}

    def rest(self) -> None:
        self._weights.forget()  # the embeddings of tokens that were computed, with up to 2 MiB around each

    def clear(self, slot: int, keep: int = 0) -> None:
        # Whole pages after the first `keep` positions of each head.
        _, kv_heads, capacity, head_dim = self._kv[0].shape
        position_bytes = head_dim * self._kv[0].itemsize
        head_bytes = capacity * position_bytes
        kept_bytes = _round_up(keep * position_bytes, _PAGE_BYTES)
        if kept_bytes == head_bytes:
            return
        heads, length = (kv_heads, head_bytes) if keep else (1, kv_heads * head_bytes)
        for layer in range(len(self._caches)):
            row = (layer * self._spec.slots + slot) * kv_heads * head_bytes
            for head in range(heads):
                self._memory.madvise(mmap.MADV_DONTNEED, row + head * head_bytes + kept_bytes, length - kept_bytes)

    def _kv_layout(self, graph: Path) -> tuple[int, int, np.dtype[np.generic]]:
        """(kv_heads, head_dim, dtype) of the graph."""
        wanted = {"input_ids", "row_tokens", "token_places", "query_seqlens", "seqlens_k", "logit_tokens"}
        inputs = {i.name: i for i in self._ort.get_inputs()}
        if missing := wanted - inputs.keys():
            lacks = f"{graph.name} is not a serving graph of this version: it lacks {', '.join(sorted(missing))}"
            raise SessionError(f"{lacks}; build the package again")
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

    def _binding(self, first: int, rows: int, adapter: str | None, *, many: bool) -> _Binding:
        session = self._prefill_ort if many else self._ort
        key = (session is self._ort, first, rows, adapter)
        if key not in self._bindings:
            if len(self._bindings) == _BINDINGS * (1 + len(self._adapters)):
                self._bindings.popitem(last=False)
            self._bindings[key] = self._bind(_Binding(session, rows, self._logits), first, rows, adapter)
        self._bindings.move_to_end(key)
        return self._bindings[key]

    def _bind(self, binding: _Binding, first: int, rows: int, adapter: str | None) -> _Binding:
        for name, cache in zip(self._caches, self._kv, strict=True):
            view = cache[first : first + rows]
            _bind_input(binding.io, name, view)
            _bind_output(binding.io, name.replace("past_key_values.", "present."), view)
        if adapter is not None:  # without one, the graph's own empty tensors count
            for name, tensor in self._adapters[adapter].tensors.items():
                binding.io.bind_ortvalue_input(name, tensor)
        return binding


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
        raise SessionError(f"cannot pack {graph.name}: {first_line(error)}") from error
    return packed


def _load(graph: Path, threads: int, provider: str, options: Mapping[str, str]) -> ort.InferenceSession:
    return load(graph, _settings(threads), [(provider, dict(options))])


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
