"""What each client does and may do, on all models together. For any thread: every call locks, shortly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import RateLimited
from .limits import LimitBook, Limiter, Limits

DAEMON = "(edgeqwend)"
"""The daemon, which asks its own models to see whether they work: no limit holds for it. No client is named so."""

OTHERS = "(others)"
"""Who has come when `MAX_NAMED` had; no client is named so."""

MAX_NAMED = 64


@dataclass(frozen=True)
class ClientStats:
    """One consistent reading of a client; the fields are those of `ClientInfo` in telemetry.proto."""

    name: str
    waiting: int
    running: int
    requests_total: int
    refused_total: int
    prompt_tokens_total: int
    completion_tokens_total: int
    limits: Limits


@dataclass(eq=False)
class _Counts:
    waiting: int = 0
    running: int = 0
    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Clients:
    """Keeps clients to their limits, and counts.

    Args:
        book: the limits.
        max_named: of how many clients, the first that come, figures are kept apart; those of the rest are summed up.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        book: LimitBook | None = None,
        *,
        max_named: int = MAX_NAMED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limiter = Limiter(book or LimitBook())
        self._max_named = max_named
        self._clock = clock
        self._counts: dict[str, _Counts] = {}
        self._lock = threading.Lock()

    def limits_of(self, client: str) -> Limits:
        return self._limiter.book.of(client)

    def follow(self, book: LimitBook) -> None:
        """From now on `book` has the limits, also of requests that run or wait."""
        with self._lock:
            self._limiter.follow(book, self._clock())

    def submitted(self, client: str, prompt_tokens: Sequence[int], *, ends_in_s: float) -> None:
        """Requests with such prompts begin to wait. Raises RateLimited, and then none of them does.

        Args:
            ends_in_s: when a request is likely to end, for those who have as many as they may.
        """
        with self._lock:
            limits = self.limits_of(client)
            excess = None if client == DAEMON else self._limiter.admit(client, prompt_tokens, self._clock())
            counts = self._counts_of(client)
            if excess is None:
                counts.requests += len(prompt_tokens)
                counts.waiting += len(prompt_tokens)
                return
            counts.refused += len(prompt_tokens)
        most = getattr(limits, excess.limit)
        raise RateLimited(client, excess.limit, most, ends_in_s if excess.wait_s is None else excess.wait_s)

    def refused(self, client: str, requests: int) -> None:
        """Requests were refused for another reason than a limit, or were dropped while they waited."""
        with self._lock:
            self._counts_of(client).refused += requests

    def started(self, client: str) -> None:
        """A request of `client` waits no more and runs."""
        with self._lock:
            counts = self._counts_of(client)
            counts.waiting -= 1
            counts.running += 1

    def prefilled(self, client: str, tokens: int) -> None:
        """Some of a prompt of `client` was computed."""
        with self._lock:
            self._counts_of(client).prompt_tokens += tokens

    def generated(self, tokens: Mapping[str, int]) -> None:
        """Answers have grown, those of each client together by so many tokens."""
        with self._lock:
            now_s = self._clock()
            for client, count in tokens.items():
                self._counts_of(client).completion_tokens += count
                self._limiter.generated(client, count, now_s)

    def ended(self, client: str, *, started: bool) -> None:
        """A request of `client` that waited, or ran if it was `started`, has ended, however it did."""
        with self._lock:
            counts = self._counts_of(client)
            if started:
                counts.running -= 1
            else:
                counts.waiting -= 1
            self._limiter.ended(client)

    def stats(self) -> list[ClientStats]:
        """In the order in which they came."""
        with self._lock:
            book = self._limiter.book
            return [
                ClientStats(
                    name=name,
                    waiting=its.waiting,
                    running=its.running,
                    requests_total=its.requests,
                    refused_total=its.refused,
                    prompt_tokens_total=its.prompt_tokens,
                    completion_tokens_total=its.completion_tokens,
                    limits=book.default if name == OTHERS else book.of(name),
                )
                for name, its in self._counts.items()
            ]

    def _counts_of(self, client: str) -> _Counts:
        if client not in self._counts:
            client = client if len(self._counts) < self._max_named else OTHERS
        return self._counts.setdefault(client, _Counts())
