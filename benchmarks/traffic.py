"""Requests that are served together, and when their tokens came. The standard library only: every engine uses it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Arrival:
    """A request for `tokens` tokens, greedy, with no end before.

    It comes once the first request of its group has said `after` tokens: the same work for every engine, whatever its
    speed.
    """

    prompt: tuple[int, ...]
    tokens: int
    after: int = 0


@dataclass(frozen=True)
class Served:
    """When a request came and when each of its tokens did, in seconds from the start of its group."""

    arrived_s: float
    token_s: tuple[float, ...]

    @property
    def first_s(self) -> float:
        """Time to first token."""
        return self.token_s[0] - self.arrived_s

    @property
    def decode(self) -> float:
        """Tokens/s after the first."""
        return (len(self.token_s) - 1) / (self.token_s[-1] - self.token_s[0])


class Group:
    """Keeps the times while a group is served. Whoever serves it asks for who is `due` after every token."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self.arrivals = arrivals
        self._arrived_s: dict[int, float] = {}
        self._token_s: list[list[float]] = [[] for _ in arrivals]
        self._start_s = time.perf_counter()

    def due(self) -> list[int]:
        """Numbers of the requests that come now; each is named once."""
        said = len(self._token_s[0])
        due = [n for n, each in enumerate(self.arrivals) if each.after <= said and n not in self._arrived_s]
        self._arrived_s |= dict.fromkeys(due, time.perf_counter() - self._start_s)
        return due

    def said(self, number: int, tokens: int = 1, at_s: float | None = None) -> None:
        """Notes tokens of a request, now or at `at_s` of `time.perf_counter`."""
        at_s = time.perf_counter() if at_s is None else at_s
        self._token_s[number] += [at_s - self._start_s] * tokens

    def ended(self, number: int) -> bool:
        """Whether a request has all its tokens."""
        return len(self._token_s[number]) >= self.arrivals[number].tokens

    @property
    def done(self) -> bool:
        return all(self.ended(number) for number in range(len(self.arrivals)))

    def served(self) -> list[Served]:
        return [Served(self._arrived_s[n], tuple(its)) for n, its in enumerate(self._token_s)]


def together(served: Sequence[Served]) -> tuple[float, float, int]:
    """When all streams run, from and to, and how many tokens came in between."""
    first = max(its.token_s[0] for its in served)
    last = min(its.token_s[-1] for its in served)
    return first, last, sum(first < at_s <= last for its in served for at_s in its.token_s)
