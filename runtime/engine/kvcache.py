"""The ledger of the KV cache: who owns which slot, what earlier sequences left, and how many tokens are promised.

A slot is one row of every layer's `[slots, kv_heads, capacity, head_dim]` array; the memory is the session's. It is
free, or a running sequence has it, or it is warm: a sequence that has ended left its KV there, and a prompt that begins
with the same tokens starts from it. Warm rows take what the promises leave of the budget; the one that was not used
for longest goes first.

Rounding depends on how tokens are computed together: one that is the only one of its row in a run, as in a decode, may
come out different in its last bits. Of each row the ledger knows how much is *exact*: prefilled, several tokens at a
time from the prompt's first on. A deterministic request starts from no more.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from .sequence import Request, Sequence


@dataclass(frozen=True)
class Clear:
    """Give back the memory of `slot` from position `keep` on."""

    slot: int
    keep: int = 0


@dataclass(frozen=True)
class Copy:
    """Copy the first `tokens` positions of slot `source` to `target`, which is empty."""

    source: int
    target: int
    tokens: int


@dataclass(eq=False)
class Warm:
    """KV that a sequence left: the tokens and the adapter it was computed from, how many of them exactly, who may start
    from it, and when that was last done."""

    tokens: tuple[int, ...]
    exact: int
    scope: bytes
    adapter: str | None
    used: int


class KVCache:
    """Slots and the token budget.

    A sequence is promised the most tokens it can grow to when it is admitted, so a running one is never evicted.
    Physical pages are committed as tokens are written, not when they are promised.

    Args:
        slots: rows of the session.
        budget_tokens: the most tokens that are promised or warm.
        max_running: the most sequences at once; None: a sequence per slot.

    `limit` lowers the budget for a while: `limit_tokens` is what counts now. Nothing running gives way to it, and one
    sequence may always run.
    """

    def __init__(self, slots: int, budget_tokens: int, *, max_running: int | None = None) -> None:
        self.max_running = slots if max_running is None else max_running
        assert 0 < self.max_running <= slots
        assert budget_tokens > 0
        self.budget_tokens = self.limit_tokens = budget_tokens
        self._limit = self.max_running
        self._rows: list[Sequence | Warm | None] = [None] * slots
        self._clears: list[Clear] = []
        self._uses = itertools.count()

    @property
    def slots(self) -> int:
        return len(self._rows)

    @property
    def running(self) -> list[Sequence]:
        """Running sequences in slot order."""
        return [row for row in self._rows if isinstance(row, Sequence)]

    @property
    def free_slots(self) -> int:
        """How many more sequences may run now."""
        return max(0, self._limit - len(self.running))

    @property
    def reserved_tokens(self) -> int:
        return sum(sequence.kv_tokens_needed for sequence in self.running)

    @property
    def used_tokens(self) -> int:
        """Computed by running sequences."""
        return sum(sequence.computed for sequence in self.running)

    @property
    def warm_tokens(self) -> int:
        return sum(len(row.tokens) for row in self._rows if isinstance(row, Warm))

    @property
    def has_clears(self) -> bool:
        return bool(self._clears)

    def limit(self, tokens: int | None) -> None:
        """Promises no more than `tokens` from now on, None: than the budget; warm rows make way at once."""
        self.limit_tokens = self.budget_tokens if tokens is None else max(0, min(tokens, self.budget_tokens))
        self._make_room(spare=None)

    def limit_running(self, most: int) -> None:
        """Lets `most` sequences run at once, up to `max_running`. Those that run go on, also where they are more."""
        assert most > 0
        self._limit = min(most, self.max_running)

    def fits(self, sequence: Sequence) -> bool:
        """Whether there is a slot and budget for `sequence` now; warm rows make way.

        By itself any fits that the whole budget has room for: else it would wait for as long as the limit stays.
        """
        if not self.running:
            return sequence.kv_tokens_needed <= self.budget_tokens
        return self.free_slots > 0 and self.reserved_tokens + sequence.kv_tokens_needed <= self.limit_tokens

    def admit(self, sequence: Sequence) -> Copy | None:
        """Gives `sequence` a slot, in which as much of its prompt counts as computed as another row has.

        That row's slot itself, if it is warm and nothing of it is lost or there is no room beside it; else a free one,
        to which the returned copy is to be made first.
        """
        assert self.fits(sequence)
        assert sequence.slot is None
        source, shared, exact = self._longest_prefix(sequence)
        if source is not None and self._may_take_over(source, shared, sequence):
            slot, copy = source, None
            self._clears.append(Clear(slot, shared))
        else:
            slot = self._free_slot(spare=source)
            copy = None if source is None else Copy(source, slot, shared)
        self._rows[slot] = sequence
        sequence.slot = slot
        sequence.computed = sequence.cached = shared
        sequence.cached_exact = exact
        self._make_room(spare=source)
        return copy

    def release(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Takes the slot of `sequence` back. With `keep`, what was computed stays warm for those of its scope."""
        slot = sequence.slot
        assert slot is not None
        assert self._rows[slot] is sequence
        tokens, scope, adapter = sequence.computed_tokens, sequence.request.scope, sequence.request.adapter
        warm = None
        if keep and tokens and scope is not None:
            warm = Warm(tokens, _exact(sequence), scope, adapter, next(self._uses))
        self._rows[slot] = warm
        self._clears.append(Clear(slot, len(tokens) if warm else 0))
        sequence.slot = None
        self._make_room(spare=None)

    def known_tokens(self, request: Request) -> int:
        """How much of its prompt's beginning is in rows that it may start from, or will be when they are computed."""
        if request.scope is None:
            return 0
        known = 0
        for row in self._rows:
            if row is None:
                continue
            of = row if isinstance(row, Warm) else row.request
            if (of.scope, of.adapter) == (request.scope, request.adapter):
                tokens = row.tokens if isinstance(row, Warm) else (*row.request.prompt, *row.output)
                known = max(known, common_prefix(tokens, request.prompt))
        return min(known, len(request.prompt) - 1)

    def forget_warm(self) -> None:
        """Frees every warm row."""
        for slot, row in enumerate(self._rows):
            if isinstance(row, Warm):
                self._free(slot)

    def take_clears(self) -> tuple[Clear, ...]:
        """What has to be cleared, in this order, before anything else is done with the slots."""
        clears, self._clears = tuple(self._clears), []
        return clears

    def _longest_prefix(self, sequence: Sequence) -> tuple[int | None, int, int]:
        """The slot that has most of the prompt's beginning, how many tokens of it, and how many of those exactly.

        The prompt's last token is always computed.
        """
        request = sequence.request
        prompt, wanted = request.prompt[:-1], (request.scope, request.adapter)
        best: tuple[int | None, int, int] = (None, 0, 0)
        if request.scope is None:
            return best
        for slot, row in enumerate(self._rows):
            if row is None:
                continue
            of = row if isinstance(row, Warm) else row.request
            if (of.scope, of.adapter) != wanted:
                continue
            tokens = row.tokens if isinstance(row, Warm) else row.computed_tokens
            shared = common_prefix(tokens, prompt)
            exact = min(shared, row.exact if isinstance(row, Warm) else _exact(row))
            if request.deterministic:  # its last token is not to be computed by itself either
                shared = exact = min(exact, max(0, len(prompt) - 1))
            if shared > best[1] or (shared and shared == best[1] == len(tokens)):
                best = slot, shared, exact
        if best[0] is not None and isinstance(warm := self._rows[best[0]], Warm):
            warm.used = next(self._uses)
        return best

    def _may_take_over(self, source: int, shared: int, sequence: Sequence) -> bool:
        row = self._rows[source]
        if not isinstance(row, Warm):
            return False
        beside = self.reserved_tokens + sequence.kv_tokens_needed + len(row.tokens) <= self.limit_tokens
        return shared == len(row.tokens) or not beside or len(self.running) + 1 == self.slots

    def _free_slot(self, *, spare: int | None) -> int:
        """A free slot, between running rows or next to them if there is one; evicts a warm row if none is free."""
        if None not in self._rows:
            self._evict(spare=spare)
        running = [sequence.slot_in_use for sequence in self.running] or [0]
        free = (slot for slot, row in enumerate(self._rows) if row is None)
        return min(free, key=lambda slot: max(running[0] - slot, slot - running[-1], 0))

    def _make_room(self, *, spare: int | None) -> None:
        """Evicts warm rows, `spare` aside, until what is promised and warm is within the limit."""
        while self.warm_tokens and self.reserved_tokens + self.warm_tokens > self.limit_tokens:
            self._evict(spare=spare)

    def _evict(self, *, spare: int | None) -> None:
        """Frees the warm row that was not used for longest, `spare` aside."""
        warm = [(row.used, slot) for slot, row in enumerate(self._rows) if isinstance(row, Warm) and slot != spare]
        self._free(min(warm)[1])

    def _free(self, slot: int) -> None:
        self._rows[slot] = None
        self._clears.append(Clear(slot))

    def __repr__(self) -> str:
        return (
            f"<KVCache {len(self.running)}/{self.max_running} running,"
            f" {self.used_tokens} used + {self.reserved_tokens - self.used_tokens} promised + {self.warm_tokens} warm"
            f" of {self.limit_tokens} tokens>"
        )


def _exact(sequence: Sequence) -> int:
    """How much of a sequence's KV is exact."""
    if sequence.cached > sequence.cached_exact or sequence.prompt_tokens - sequence.cached == 1:
        return sequence.cached_exact
    return min(sequence.computed, sequence.prompt_tokens)


def common_prefix(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """How many tokens both begin with, by bisection: a comparison of slices costs far less than a loop over tokens."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
