"""Who is admitted next: fair between clients by the tokens they are promised, first come, first served within one.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). A client's requests lie behind each other on a line, each
as long as the tokens that it may take; the one that begins first is next. While two clients both have requests waiting,
what they are admitted differs by no more than the largest request of each, however many they send.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain, takewhile

from .sequence import Sequence


class FairQueue:
    """Sequences that wait, by client. Their ids grow in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Sequence]] = {}
        self._count = 0
        # Where on the line the one that was admitted last began: nobody is given what passed while they were away.
        self._now = 0
        # Where the last that a client was admitted ends, if that is beyond `_now`.
        self._ends: dict[str, int] = {}
        self._next: Sequence | None = None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        """In the order in which they are admitted if nothing changes until then."""
        return self._in_order(self._waiting)

    def ahead_of(self, sequence: Sequence) -> Iterator[Sequence]:
        """Those that would be admitted before `sequence` if it came now, in order."""
        client = sequence.request.client
        waiting = self._waiting | {client: deque([*self._waiting.get(client, ()), sequence])}
        return takewhile(lambda each: each is not sequence, self._in_order(waiting))

    @property
    def next(self) -> Sequence:
        """The one to admit now. There must be one."""
        if self._next is None:
            heads = (its[0] for its in self._waiting.values())
            self._next = min(heads, key=lambda head: (self._start(head.request.client), head.id))
        return self._next

    @property
    def by_client(self) -> Iterator[Sequence]:
        """One client's after the other's: cheaper than in order."""
        return chain.from_iterable(self._waiting.values())

    def count_of(self, client: str) -> int:
        """How many of `client` wait."""
        return len(self._waiting.get(client, ()))

    def add(self, sequence: Sequence) -> None:
        self._waiting.setdefault(sequence.request.client, deque()).append(sequence)
        self._count += 1
        self._next = None

    def remove(self, sequence: Sequence) -> None:
        """Forgets one that waits."""
        client = sequence.request.client
        self._waiting[client].remove(sequence)
        self._forget_if_none(client)

    def take(self) -> Sequence:
        """Admits the next one: its client is charged what it may take."""
        sequence = self.next
        client = sequence.request.client
        self._now = self._start(client)
        self._ends[client] = self._now + sequence.kv_tokens_needed
        self._ends = {other: end for other, end in self._ends.items() if end > self._now}
        self._waiting[client].popleft()
        self._forget_if_none(client)
        return sequence

    def give_back(self, client: str, tokens: int) -> None:
        """What a request of `client` that has ended did not take of what it was charged: never all of it."""
        if client in self._ends:
            self._ends[client] -= tokens
            self._next = None

    def rest(self) -> None:
        """Nothing waits or runs: nobody has had more than others."""
        assert not self._count
        self._now = 0
        self._ends.clear()

    def giving_way(self, client: str, count: int, places: int) -> list[Sequence] | None:
        """Who leaves to make `places` for `count` more of `client`; None if it has no better right to them than others.

        The newest of the client that has most waiting, as long as it keeps no fewer than `client` would have then.
        Those that came together leave together, and only while all of them wait.
        """
        would_have = self.count_of(client) + count
        left = {other: list(its) for other, its in self._waiting.items() if other != client and len(its) > would_have}
        going: list[Sequence] = []
        while len(going) < places:
            newest = {other: group for other, its in left.items() if (group := _newest_group(its))}
            may = [other for other, group in newest.items() if len(left[other]) - len(group) >= would_have]
            if not may:
                return None
            most = max(may, key=lambda other: (len(left[other]), left[other][-1].id))
            going += newest[most]
            del left[most][-len(newest[most]) :]
        return going

    def _in_order(self, waiting: Mapping[str, deque[Sequence]]) -> Iterator[Sequence]:
        heads = [(self._start(client), its[0].id, client, 0) for client, its in waiting.items()]
        heapq.heapify(heads)
        while heads:
            start, _, client, at = heapq.heappop(heads)
            its = waiting[client]
            yield its[at]
            if at + 1 < len(its):
                heapq.heappush(heads, (start + its[at].kv_tokens_needed, its[at + 1].id, client, at + 1))

    def _start(self, client: str) -> int:
        return max(self._now, self._ends.get(client, 0))

    def _forget_if_none(self, client: str) -> None:
        if not self._waiting[client]:
            del self._waiting[client]
        self._count -= 1
        self._next = None


def _newest_group(its: list[Sequence]) -> list[Sequence]:
    """The last one and those that came with it; none if some of them wait no more."""
    first = len(its) - 1
    while first > 0 and its[first].group is not None and its[first - 1].group == its[first].group:
        first -= 1
    return its[first:] if its[first].group in (None, its[first].id) else []
