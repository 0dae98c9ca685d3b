"""A `Session` of one row over graphs of fixed width, which is what NPUs run: a window of tokens, or a single one.

A window that is not full is padded behind its tokens. What the padding leaves in the KV cache is never looked at: what
comes next is computed at those positions and replaces it. So a row goes back to an earlier position for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .session import Chunk, Logits, SessionSpec

States = NDArray[np.generic]
"""What the decoder hands to the head, in whichever numbers it computes."""


class Pipeline(Protocol):
    """A decoder for one row, with the KV cache of `spec.context_tokens` positions."""

    @property
    def spec(self) -> SessionSpec: ...

    @property
    def window_tokens(self) -> int:
        """The most tokens that are computed together."""
        ...

    def states(self, tokens: Sequence[int], start: int) -> States:
        """Computes up to a window of tokens at positions from `start` on; what is before `start` is there.

        Returns `[len(tokens), hidden_size]`.
        """
        ...

    def logits(self, states: States) -> Logits:
        """float32 `[len(states), vocab]`."""
        ...


class StaticSession:
    """`Session` over a `Pipeline`. It takes no adapters."""

    def __init__(self, pipeline: Pipeline) -> None:
        assert pipeline.spec.slots == 1
        self._pipeline = pipeline

    @property
    def spec(self) -> SessionSpec:
        return self._pipeline.spec

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        assert adapter is None
        [chunk] = chunks
        assert chunk.slot == 0
        assert 0 < len(chunk.tokens) <= self.spec.context_tokens - chunk.start
        window = self._pipeline.window_tokens
        states = [
            self._pipeline.states(chunk.tokens[at : at + window], chunk.start + at)
            for at in range(0, len(chunk.tokens), window)
        ]
        wanted = np.concatenate(states)[len(chunk.tokens) - chunk.logits :]
        if not chunk.logits:
            return np.empty((0, self.spec.vocab_size), np.float32)
        return self._pipeline.logits(wanted)

    def copy(self, source: int, target: int, tokens: int) -> None:
        assert source == target == 0, "there is one row"

    def clear(self, slot: int, keep: int = 0) -> None:
        """Does nothing: the memory of the only row is the graphs' own."""
