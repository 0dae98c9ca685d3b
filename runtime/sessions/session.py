"""The seam between the engine and what computes: a `Session` is a model with a KV cache of some rows.

Each backend has an implementation: `ort_session` for CPUs, `plain_session` for one row there of a graph as Optimum
exports it, `cuda_session` for NVIDIA's GPUs, `static_session` for Qualcomm's NPUs, and for OpenVINO `openvino_paged`,
many rows on a CPU, and `openvino_stateful`, one row on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class SessionSpec:
    """What a loaded session can do.

    Args:
        provider: what runs, never something else than was asked for.
        many_logits: whether a chunk may want logits after more than its last token. Without, nothing is guessed.
        deterministic: whether a run can be.
        reuses_rows: whether a request can start from what another left in a row.
        frees_kv: whether memory of the KV cache is taken as it is written, and given back as it is cleared.
        threads: that a run has, where they can be lowered (`ThreadedSession`).
    """

    vocab_size: int
    context_tokens: int
    slots: int
    kv_bytes_per_token: int
    provider: str
    many_logits: bool = True
    deterministic: bool = True
    reuses_rows: bool = True
    frees_kv: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class Chunk:
    """Tokens of a row that are computed together, at positions `[start, start + len(tokens))`; what is before is there.

    Logits are wanted after the last `logits` of them.
    """

    slot: int
    tokens: Sequence[int]
    start: int
    logits: int = 1


class Session(Protocol):
    """A model with a KV cache of `spec.slots` rows. Calls come from one thread; a result is valid until the next."""

    @property
    def spec(self) -> SessionSpec: ...

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        """Computes chunks of slots that ascend, in one pass over the weights.

        With `adapter`, one of those that were loaded, or by the model as it is. With `deterministic`, what comes out
        for a chunk is the same to the last bit whatever the others are, and however many.

        Returns float32 `[sum of the chunks' logits, vocab]`, those of the first chunk first.
        """
        ...

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` positions of slot `source` to `target`."""
        ...

    def clear(self, slot: int, keep: int = 0) -> None:
        """Gives the memory of `slot` from position `keep` on back to the system; what was in it is gone."""
        ...


@runtime_checkable
class ThreadedSession(Session, Protocol):
    """A session that can run on fewer threads than it was loaded with: `spec.threads`."""

    def limit_threads(self, most: int) -> None:
        """Runs on `most` threads from now on, up to `spec.threads`; what is in the rows stays.

        May take as long as loading. Raises SessionError; the next call or run tries again.
        """
        ...


@runtime_checkable
class RestingSession(Session, Protocol):
    """A session that comes to hold memory, as it runs, that it can do without."""

    def rest(self) -> None:
        """Nothing runs for now: such memory goes back to the system. What is in the rows stays."""
        ...


def only_chunk(chunks: Sequence[Chunk], spec: SessionSpec, adapter: str | None, *, held: int | None = None) -> Chunk:
    """The chunk of a session of one row, which has no adapters.

    Args:
        held: positions that the row has; None: the session does not know.
    """
    assert adapter is None, "load_session takes no adapters"
    [chunk] = chunks
    assert chunk.slot == 0, "there is one row"
    assert held is None or chunk.start <= held
    assert 0 < len(chunk.tokens) <= spec.context_tokens - chunk.start
    return chunk
