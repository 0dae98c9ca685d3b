"""Many rows on OpenVINO's CPU, through the form of the model that OpenVINO calls paged attention.

There tokens of all rows are packed, as in our serving graph, and each layer's keys and values live in blocks of some
positions. Row i has the blocks `[i * blocks_per_row, (i + 1) * blocks_per_row)` of every layer: memory is committed
when it is written, so what a row does not use costs nothing, and nobody has to keep a list of free blocks. The block
after the last row is of a token that is computed for nobody.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino._offline_transformations import paged_attention_transformation

from ..errors import SessionError
from ..memory import MappedFile
from .openvino_device import LOGIT_TOKENS, compile_model, cpu_properties, first_line, infer, pick_logits, read_model
from .session import Chunk, Logits, SessionSpec

_MAP_NORESERVE = 0x4000  # Linux; Python 3.11 does not name it. Pages are committed when written, not before.


class OpenVinoPagedSession:
    """`Session` of many rows on OpenVINO's CPU."""

    def __init__(
        self, model: Path, *, slots: int, context_tokens: int, threads: int, kv_dtype: str, int8_activations: bool
    ) -> None:
        """Loads the IR `model`. Raises SessionError if it cannot be run.

        Args:
            kv_dtype: float32 or float16. At 8 bits a token would change those before it in its block.
            int8_activations: whether products with quantized weights round what they multiply with to 8 bits: faster,
                and a little less faithful.
        """
        paged = read_model(model)
        try:
            paged_attention_transformation(paged)
        except RuntimeError as error:
            raise SessionError(f"{model.name} has no attention that can be paged: {first_line(error)}") from error
        pick_logits(paged, axis=0)
        compiled = compile_model(paged, "CPU", cpu_properties(threads, kv_dtype, int8_activations=int8_activations))
        self._request = compiled.create_infer_request()
        self._block_tokens: int = compiled.input("value_cache.0").partial_shape[2].get_length()
        self._blocks_per_row = self._blocks(context_tokens)
        self._caches = [
            _Cache(port, slots * self._blocks_per_row + 1) for port in compiled.inputs if "_cache." in port.any_name
        ]
        for cache in self._caches:
            self._request.set_tensor(cache.name, ov.Tensor(cache.blocks, shared_memory=True))
        self._spec = SessionSpec(
            vocab_size=compiled.output("logits").partial_shape[2].get_length(),
            context_tokens=context_tokens,
            slots=slots,
            kv_bytes_per_token=sum(cache.block_bytes for cache in self._caches) // self._block_tokens,
            provider="OpenVINO (CPU)",
            frees_kv=True,
        )
        self._compute([Chunk(0, [0], 0)])  # the first run copies the weights into the layout of the kernels
        self._weights = MappedFile(model.with_suffix(".bin"))
        self.clear(0)
        self.rest()

    @property
    def spec(self) -> SessionSpec:
        return self._spec

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        assert adapter is None, "load_session takes no adapters"
        assert all(0 < len(chunk.tokens) <= self._spec.context_tokens - chunk.start for chunk in chunks)
        if not deterministic:
            return self._compute(chunks)
        # One token, or one row of the head, rounds in one way, and several, however many, in another: so it is several.
        if sum(len(chunk.tokens) for chunk in chunks) == 1:
            chunks = [*chunks, Chunk(self._spec.slots, [0], 0, logits=0)]
        return self._compute(chunks, least_logits=2)

    def _compute(self, chunks: Sequence[Chunk], *, least_logits: int = 0) -> Logits:
        starts = np.array([chunk.start for chunk in chunks])
        counts = np.array([len(chunk.tokens) for chunk in chunks])
        ends = np.cumsum(counts)
        blocks = -(-(starts + counts) // self._block_tokens)
        first_blocks = [chunk.slot * self._blocks_per_row for chunk in chunks]
        self._set("input_ids", np.concatenate([chunk.tokens for chunk in chunks]), np.int64)
        self._set("position_ids", _ranges(starts, counts), np.int64)
        self._set("past_lens", starts, np.int32)
        self._set("subsequence_begins", np.append(0, ends), np.int32)
        self._set("block_indices", _ranges(first_blocks, blocks), np.int32)
        self._set("block_indices_begins", np.append(0, np.cumsum(blocks)), np.int32)
        self._set("max_context_len", (starts + counts).max(), np.int32)
        wanted = np.array([chunk.logits for chunk in chunks])
        logit_tokens = _ranges(ends - wanted, wanted)
        self._set(LOGIT_TOKENS, np.resize(logit_tokens, max(len(logit_tokens), least_logits)), np.int64)
        infer(self._request)
        logits: Logits = self._request.get_tensor("logits").data
        return logits.reshape(-1, self._spec.vocab_size)[: len(logit_tokens)]

    def _blocks(self, tokens: int) -> int:
        """That so many tokens of a row need."""
        return -(-tokens // self._block_tokens)

    def _set(self, name: str, value: object, dtype: type[np.integer]) -> None:
        self._request.set_tensor(name, ov.Tensor(np.asarray(value, dtype)))

    def copy(self, source: int, target: int, tokens: int) -> None:
        count = self._blocks(tokens)
        begin, end = source * self._blocks_per_row, target * self._blocks_per_row
        for cache in self._caches:
            cache.blocks[end : end + count] = cache.blocks[begin : begin + count]

    def clear(self, slot: int, keep: int = 0) -> None:
        kept = self._blocks(keep)
        for cache in self._caches:
            cache.give_back(slot * self._blocks_per_row + kept, (slot + 1) * self._blocks_per_row)

    def rest(self) -> None:
        self._weights.forget()  # the embeddings of tokens that were computed


class _Cache:
    """The keys or the values of a layer: `[blocks, ...]` in the shape and type that the compiled model has for them."""

    def __init__(self, port: ov.ConstOutput, blocks: int) -> None:
        self.name: str = port.any_name
        shape = [size.get_length() for size in list(port.partial_shape)[1:]]
        dtype = np.dtype(port.element_type.to_dtype())
        self.block_bytes = math.prod(shape) * dtype.itemsize
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._memory = mmap.mmap(-1, blocks * self.block_bytes, flags=flags)
        self.blocks: NDArray[np.generic] = np.frombuffer(self._memory, dtype).reshape(blocks, *shape)

    def give_back(self, begin: int, end: int) -> None:
        """Gives the whole pages in blocks `[begin, end)` back to the system."""
        first = -(-begin * self.block_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        last = end * self.block_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            self._memory.madvise(mmap.MADV_DONTNEED, first, last - first)


def _ranges(begins: Sequence[int] | NDArray[np.integer], counts: NDArray[np.integer]) -> NDArray[np.integer]:
    """`[begin, begin + count)` of each, one after the other."""
    ranges: NDArray[np.integer] = np.arange(counts.sum()) + np.repeat(begins - np.cumsum(counts) + counts, counts)
    return ranges
