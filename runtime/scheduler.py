"""Continuous batching: decides what the next step runs. Deques and integers only; same calls, same steps.

First come, first served. Every step decodes all rows that can, and prefills at most one chunk of one prompt, so a new
prompt never holds up the running streams for longer than one chunk (the chunked prefill of Sarathi-Serve,
arXiv:2403.02310, with the chunk and the decodes run one after the other: padding decodes to a chunk's width would
cost more on a CPU than the second pass over the weights).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .kvcache import KVCache, Move
from .sequence import Sequence


@dataclass(frozen=True)
class Prefill:
    """Compute prompt tokens `[start, start + tokens)` of `sequence`; with `last`, its first token can be sampled."""

    sequence: Sequence
    slot: int
    start: int
    tokens: int

    @property
    def last(self) -> bool:
        return self.start + self.tokens == self.sequence.prompt_tokens


@dataclass(frozen=True)
class Decode:
    """Compute the last output token of `sequence`, and sample the next."""

    sequence: Sequence
    slot: int


@dataclass(frozen=True)
class Step:
    """What to run now: clear `freed` slots, then `move`, then the prefill chunk, then one decode of all `decode`.

    It names slots itself: a sequence that is cancelled while the step runs has none any more.
    """

    freed: tuple[int, ...] = ()
    move: Move | None = None
    prefill: Prefill | None = None
    decode: tuple[Decode, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.freed or self.move or self.prefill or self.decode)


class Scheduler:
    """The queue and the running sequences. Not thread-safe: the engine holds its lock around every call."""

    def __init__(self, kv: KVCache, *, queue_limit: int, prefill_chunk_tokens: int) -> None:
        assert queue_limit > 0
        assert prefill_chunk_tokens > 0
        self.kv = kv
        self.queue_limit = queue_limit
        self.prefill_chunk_tokens = prefill_chunk_tokens
        self.waiting: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()
        self._freed: list[int] = []

    @property
    def full(self) -> bool:
        """Whether a new request has to be refused: those that free slots will take at once do not count."""
        return len(self.waiting) >= self.queue_limit + self.kv.free_slots

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs, and no slot is left to clear."""
        return not (self.waiting or self._freed or self.kv.free_slots < self.kv.slots)

    def add(self, sequence: Sequence) -> None:
        """Queues `sequence`."""
        assert not self.full
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets `sequence`, wherever it is. Its slot is cleared by the next step."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        self._freed.append(self.kv.release(sequence))

    def schedule(self) -> Step:
        """The next step. Marks nothing as computed: that is the engine's to do once it has run."""
        freed, self._freed = tuple(self._freed), []
        while self.waiting and self.kv.fits(self.waiting[0]):
            sequence = self.waiting.popleft()
            self.kv.admit(sequence)
            self._prefilling.append(sequence)
        return Step(freed, self.kv.compaction(), self._next_chunk(), self._decodable())

    def _next_chunk(self) -> Prefill | None:
        while self._prefilling and not self._prefilling[0].in_prefill:
            self._prefilling.popleft()
        if not self._prefilling:
            return None
        sequence = self._prefilling[0]
        left = sequence.prompt_tokens - sequence.computed
        return Prefill(sequence, sequence.slot_in_use, sequence.computed, min(left, self.prefill_chunk_tokens))

    def _decodable(self) -> tuple[Decode, ...]:
        return tuple(Decode(each, each.slot_in_use) for each in self.kv.owners if not each.in_prefill)

    def __repr__(self) -> str:
        return f"<Scheduler {len(self.waiting)}/{self.queue_limit} waiting, {self.kv!r}>"
