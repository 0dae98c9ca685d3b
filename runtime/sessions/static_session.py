"""A `Session` of one row over graphs of fixed width, which is what NPUs run: a window of tokens, or a single one.

Before every text stands the same token, the attention sink, which was computed when the package was built (see
toolchain.activations): it is the text's own first token, or stands before it.

A window that is not full is padded behind its tokens. What the padding leaves in the KV cache is never looked at: what
comes next is computed at those positions and replaces it. So a row goes back to an earlier position for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .session import Chunk, Logits, SessionSpec, only_chunk

States = NDArray[np.generic]
"""What the decoder hands to the head, in whichever numbers it computes."""


class Pipeline(Protocol):
    """A decoder for one row, with a KV cache of the sink, at position 0, and `spec.context_tokens` positions."""

    @property
    def spec(self) -> SessionSpec: ...

    @property
    def window_tokens(self) -> int:
        """The most tokens that are computed together."""
        ...

    @property
    def sink(self) -> int:
        """The token at position 0."""
        ...

    @property
    def sink_states(self) -> States:
        """What the decoder computed for it: `[1, hidden_size]`."""
        ...

    def states(self, tokens: Sequence[int], start: int) -> States:
        """Computes up to a window of tokens at positions from `start`, 1 or later; what is before `start` is there.

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
        self._before = 1  # positions before the text's first token

    @property
    def spec(self) -> SessionSpec:
        return self._pipeline.spec

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        chunk = only_chunk(chunks, self.spec, adapter)
        states = np.concatenate(list(self._states(chunk)))
        if not chunk.logits:
            return np.empty((0, self.spec.vocab_size), np.float32)
        return self._pipeline.logits(states[len(chunk.tokens) - chunk.logits :])

    def _states(self, chunk: Chunk) -> Iterator[States]:
        """Of all its tokens, a window at a time."""
        pipeline, tokens, start = self._pipeline, chunk.tokens, chunk.start
        if start == 0:
            self._before = 0 if tokens[0] == pipeline.sink else 1
            if not self._before:
                yield pipeline.sink_states
                tokens, start = tokens[1:], 1
        window = pipeline.window_tokens
        for at in range(0, len(tokens), window):
            yield pipeline.states(tokens[at : at + window], self._before + start + at)

    def copy(self, source: int, target: int, tokens: int) -> None:
        assert source == target == 0, "there is one row"

    def clear(self, slot: int, keep: int = 0) -> None:
        """Does nothing: the memory of the only row is the graphs' own."""
