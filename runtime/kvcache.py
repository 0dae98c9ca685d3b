"""The ledger of the KV cache: who owns which slot, and how many tokens are promised. The memory is the session's.

A slot is one row of every layer's `[slots, kv_heads, capacity, head_dim]` array. A decode step runs over a contiguous
range of slots, so a hole in the range costs a row's arithmetic; `compaction` says how to close one.
"""

from __future__ import annotations

from dataclasses import dataclass

from .sequence import Sequence


@dataclass(frozen=True)
class Move:
    """Copy a row: its owner has the slot `target` from now on."""

    sequence: Sequence
    source: int
    target: int


class KVCache:
    """Slots and the token budget.

    A sequence is promised the most tokens it can grow to when it is admitted, so a running one is never evicted.
    Physical pages are committed as tokens are written, not when they are promised.
    """

    def __init__(self, slots: int, budget_tokens: int) -> None:
        assert slots > 0
        assert budget_tokens > 0
        self.budget_tokens = budget_tokens
        self._owners: list[Sequence | None] = [None] * slots

    @property
    def slots(self) -> int:
        return len(self._owners)

    @property
    def owners(self) -> list[Sequence]:
        """Running sequences in slot order."""
        return [owner for owner in self._owners if owner is not None]

    @property
    def free_slots(self) -> int:
        return self._owners.count(None)

    @property
    def reserved_tokens(self) -> int:
        return sum(owner.kv_tokens_needed for owner in self.owners)

    @property
    def used_tokens(self) -> int:
        return sum(owner.computed for owner in self.owners)

    def fits(self, sequence: Sequence) -> bool:
        """Whether there is a slot and budget for `sequence` now."""
        return self.free_slots > 0 and self.reserved_tokens + sequence.kv_tokens_needed <= self.budget_tokens

    def admit(self, sequence: Sequence) -> None:
        """Gives `sequence` the lowest free slot."""
        assert self.fits(sequence)
        assert sequence.slot is None
        sequence.slot = self._owners.index(None)
        self._owners[sequence.slot] = sequence

    def release(self, sequence: Sequence) -> int:
        """Takes the slot of `sequence` back and returns it."""
        slot = sequence.slot
        assert slot is not None
        assert self._owners[slot] is sequence
        self._owners[slot] = None
        sequence.slot = None
        return slot

    def compaction(self) -> Move | None:
        """Moves the highest row into the lowest hole, if there is a hole below it."""
        owners = self.owners
        hole = self._owners.index(None) if self.free_slots else self.slots
        if len(owners) <= hole:
            return None
        highest = owners[-1]
        source = self.release(highest)
        highest.slot = hole
        self._owners[hole] = highest
        return Move(highest, source, hole)

    def __repr__(self) -> str:
        return (
            f"<KVCache {self.slots - self.free_slots}/{self.slots} slots,"
            f" {self.used_tokens} used + {self.reserved_tokens - self.used_tokens} promised"
            f" of {self.budget_tokens} tokens>"
        )
