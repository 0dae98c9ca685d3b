"""Continuous batching: decides what the next step runs. Deques and integers only; same calls, same steps.

Clients are served in turn, and of each, first come, first served. Every step decodes all rows that can, and beside them
prefills a chunk of one prompt, which is the shorter the more it would hold up the running streams (the chunked prefill
of Sarathi-Serve, arXiv:2403.02310).

A run of the model has one adapter. Every step runs the rows of each adapter, in a run of their own: a row gets its
token in every step whatever the others use, so nobody waits for a turn.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .fairqueue import FairQueue
from .kvcache import Clear, Copy, KVCache, common_prefix
from .sequence import Request, Sequence
from .speculation import TOKEN_COST

_LONGEST_STEP = 3.4  # so that one gap in a hundred is 4 times the usual one: deep prompts and busy boards add to it
_MOST_COMPARED = 64  # prompts of a scope: each takes some 10 us, in which the engine waits
_SHORTEST_CHUNK = 4  # a pass over all weights for fewer tokens is a waste


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
    """What to do now: the clears, then `copy`, then the prefill chunk and the decodes.

    It names slots itself: a sequence that is cancelled while the step runs has none any more.
    """

    clear: tuple[Clear, ...] = ()
    copy: Copy | None = None
    prefill: Prefill | None = None
    decode: tuple[Decode, ...] = ()

    @property
    def runs(self) -> list[list[Prefill | Decode]]:
        """Chunk and decodes by adapter, the model as it is first; in each, in slot order."""
        rows: list[Prefill | Decode] = [*self.decode, *([self.prefill] if self.prefill else [])]
        by_adapter: dict[str, list[Prefill | Decode]] = {}
        for row in sorted(rows, key=lambda row: row.slot):
            by_adapter.setdefault(row.sequence.request.adapter or "", []).append(row)
        return [by_adapter[name] for name in sorted(by_adapter)]

    @property
    def empty(self) -> bool:
        return not (self.clear or self.copy or self.prefill or self.decode)


class Scheduler:
    """The queue and the running sequences. Not thread-safe: the engine holds its lock around every call."""

    def __init__(
        self, kv: KVCache, *, queue_limit: int, prefill_chunk_tokens: int, token_cost: float = TOKEN_COST
    ) -> None:
        assert queue_limit > 0
        assert prefill_chunk_tokens > 1
        self.kv = kv
        self.queue_limit = queue_limit
        self._chunk_tokens = prefill_chunk_tokens
        self._token_cost = token_cost
        self.waiting = FairQueue()
        self._prefilling: Sequence | None = None

    @property
    def room(self) -> int:
        """How many more requests may come: those that free slots will take at once do not count."""
        return self.queue_limit + self.kv.free_slots - len(self.waiting)

    @property
    def prefilling(self) -> Sequence | None:
        """The running sequence whose prompt is being computed."""
        return self._prefilling if self._prefilling and self._prefilling.in_prefill else None

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs, and no slot is left to clear."""
        return not (self.waiting or self.kv.running or self.kv.has_clears)

    def new_tokens(self, request: Request) -> int:
        """At least how many tokens of its prompt have to be computed, however much of it those before leave."""
        known = self.kv.known_tokens(request)
        if request.scope is not None:
            whose = request.scope, request.adapter
            alike = (of for each in self.waiting.by_client if ((of := each.request).scope, of.adapter) == whose)
            for number, of in enumerate(alike):
                if number == _MOST_COMPARED:
                    return 1
                known = max(known, common_prefix(of.prompt, request.prompt))
        return len(request.prompt) - min(known, len(request.prompt) - 1)

    def add(self, sequence: Sequence) -> None:
        """Queues `sequence`."""
        assert self.room > 0
        self.waiting.add(sequence)

    def giving_way(self, client: str, count: int) -> list[Sequence] | None:
        """Those that wait and must be removed before `count` more of `client` can be added; None: they can not be."""
        return self.waiting.giving_way(client, count, count - self.room)

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Forgets `sequence`, wherever it is. With `keep`, what was computed of it may stay warm."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            if sequence is self._prefilling:
                self._prefilling = None
            taken = max(1, sequence.computed - sequence.cached)
            self.waiting.give_back(sequence.request.client, sequence.kv_tokens_needed - taken)
            self.kv.release(sequence, keep=keep)
        if not (self.waiting or self.kv.running):
            self.waiting.rest()

    def schedule(self) -> Step:
        """The next step. Marks nothing as computed: that is the engine's to do once it has run."""
        copy = self._admit()
        decode = self._decodable()
        return Step(self.kv.take_clears(), copy, self._next_chunk(decode), decode)

    def _admit(self) -> Copy | None:
        """Admits the next that waits, if no other is in prefill: it may have computed what this one starts with."""
        if self._prefilling and not self._prefilling.in_prefill:
            self._prefilling = None
        if self._prefilling or not self.waiting or not self.kv.fits(self.waiting.next):
            return None
        self._prefilling = self.waiting.take()
        return self.kv.admit(self._prefilling)

    def _next_chunk(self, decode: tuple[Decode, ...]) -> Prefill | None:
        """The next tokens of the prompt in prefill; never the last one by itself (see `kvcache`)."""
        sequence = self._prefilling
        if sequence is None:
            return None
        left, most = sequence.prompt_tokens - sequence.computed, self._longest_chunk(sequence, decode)
        return Prefill(sequence, sequence.slot_in_use, sequence.computed, left if left <= most + 1 else most)

    def _longest_chunk(self, sequence: Sequence, decode: tuple[Decode, ...]) -> int:
        """As long as it may be beside these rows: a step with it takes _LONGEST_STEP times as long as without."""
        if not decode:
            return self._chunk_tokens
        rows = Counter(row.sequence.request.adapter for row in decode)
        step = len(rows) + self._token_cost * (len(decode) - len(rows))  # in steps of one row
        spare = (_LONGEST_STEP - 1) * step
        beside = rows[sequence.request.adapter]
        if not beside:  # it takes a pass over the weights of its own
            spare -= 1 - self._token_cost
        tokens = max(_SHORTEST_CHUNK, int(spare / self._token_cost))
        return min(self._chunk_tokens, tokens + (tokens + beside) % 2)  # kernels take pairs

    def _decodable(self) -> tuple[Decode, ...]:
        return tuple(Decode(each, each.slot_in_use) for each in self.kv.running if not each.in_prefill)

    def readings(self) -> dict[str, int]:
        """What there is of requests and tokens now, by their names in `EngineStats`."""
        return {
            "queue_depth": len(self.waiting),
            "queue_limit": self.queue_limit,
            "running": len(self.kv.running),
            "slots": self.kv.max_running,
            "kv_used_tokens": self.kv.used_tokens,
            "kv_warm_tokens": self.kv.warm_tokens,
            "kv_reserved_tokens": self.kv.reserved_tokens,
            "kv_budget_tokens": self.kv.limit_tokens,
        }

    def __repr__(self) -> str:
        return f"<Scheduler {len(self.waiting)}/{self.queue_limit} waiting, {self.kv!r}>"
