"""What a client may ask for, and whether it may now. Pure: the caller tells the time, on a monotonic clock.

Rates are token buckets: each holds what is allowed in a minute, fills steadily, and is full at first. What a request
takes is charged as it comes, its prompt when it is admitted and its answer token by token: nobody pays for a
`max_tokens` that was not used. So a bucket can go below zero, by the answers that were running; the client then waits
until that is filled up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

MAX_CLIENTS = 1024

Limit = Literal["requests_per_minute", "tokens_per_minute", "concurrent_requests"]
"""Those that say "not now"; the others say "never"."""


@dataclass(frozen=True)
class Limits:
    """Of one client. None: as much as it likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and answers together."""
    concurrent_requests: int | None = None
    """Running and waiting ones together."""
    prompt_tokens: int | None = None
    """Of one prompt."""
    output_tokens: int | None = None
    """Of one answer, and what it may have if the request does not say."""


@dataclass(frozen=True)
class LimitBook:
    """The limits of those that are named, and of all others."""

    default: Limits = field(default_factory=Limits)
    clients: Mapping[str, Limits] = field(default_factory=dict)

    def of(self, client: str) -> Limits:
        return self.clients.get(client, self.default)


@dataclass(frozen=True)
class Excess:
    """What does not let a client in now, and for how long (seconds); None: until a request of it ends."""

    limit: Limit
    wait_s: float | None


class Bucket:
    """Holds up to `per_minute`, and fills by as much in a minute."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        assert per_minute > 0
        self._size = per_minute
        self._level = float(per_minute)
        self._read_s = now_s

    def level(self, now_s: float) -> float:
        """What is in it; below zero where more was taken. A clock that goes back adds nothing, and takes nothing."""
        self._level = min(self._size, self._level + max(0.0, now_s - self._read_s) * self._size / 60)
        self._read_s = now_s
        return self._level

    def wait_s(self, wanted: int, now_s: float) -> float:
        """Until so much is there, or it is full: what is larger than it waits for no more."""
        return max(0.0, min(wanted, self._size) - self.level(now_s)) * 60 / self._size

    def take(self, amount: int, now_s: float) -> None:
        self._level = self.level(now_s) - amount

    def resize(self, per_minute: int, now_s: float) -> None:
        """It is another minute's worth, and as full or as far below zero as before: who waits waits as long."""
        self._level = self.level(now_s) * per_minute / self._size
        self._size = per_minute

    def is_full(self, now_s: float) -> bool:
        return self.level(now_s) >= self._size


@dataclass(eq=False)
class _Account:
    requests: Bucket | None = None
    tokens: Bucket | None = None
    live: int = 0

    def follow(self, limits: Limits, now_s: float) -> None:
        """From now on `limits` count."""
        self.requests = _resized(self.requests, limits.requests_per_minute, now_s)
        self.tokens = _resized(self.tokens, limits.tokens_per_minute, now_s)

    def as_new(self, now_s: float) -> bool:
        """Whether nothing is lost with it."""
        buckets = (bucket for bucket in (self.requests, self.tokens) if bucket)
        return not self.live and all(bucket.is_full(now_s) for bucket in buckets)


class Limiter:
    """Keeps clients to their limits. It remembers a client only while that matters or it has something running, and no
    more than `max_clients` of those that have not."""

    def __init__(self, book: LimitBook, *, max_clients: int = MAX_CLIENTS) -> None:
        self.book = book
        self._max_clients = max_clients
        self._accounts: OrderedDict[str, _Account] = OrderedDict()  # the one that was not used for longest is first

    def __len__(self) -> int:
        """How many clients it remembers."""
        return len(self._accounts)

    def follow(self, book: LimitBook, now_s: float) -> None:
        """From now on `book` counts, also for what runs; what clients have had of their minute counts on."""
        self.book = book
        for client, account in list(self._accounts.items()):
            account.follow(book.of(client), now_s)
            self._forget_if_idle(client, account)

    def admit(self, client: str, prompt_tokens: Sequence[int], now_s: float) -> Excess | None:
        """Lets requests with such prompts in, all or none, and charges them. None: they are in.

        Requests and tokens that are more than a minute's are let in when a whole minute's are there.
        """
        limits = self.book.of(client)
        account = self._account(client, now_s)
        count, tokens = len(prompt_tokens), sum(prompt_tokens)
        if limits.concurrent_requests is not None and account.live + count > limits.concurrent_requests:
            return Excess("concurrent_requests", None)
        waits: list[tuple[float, Limit]] = []
        if account.requests:
            waits.append((account.requests.wait_s(count, now_s), "requests_per_minute"))
        if account.tokens:
            waits.append((account.tokens.wait_s(tokens, now_s), "tokens_per_minute"))
        longest_s, limit = max(waits, default=(0.0, "requests_per_minute"))
        if longest_s > 0:
            return Excess(limit, longest_s)
        account.live += count
        if account.requests:
            account.requests.take(count, now_s)
        if account.tokens:
            account.tokens.take(tokens, now_s)
        return None

    def generated(self, client: str, tokens: int, now_s: float) -> None:
        """An answer to `client` has grown."""
        account = self._accounts.get(client)
        if account and account.tokens:
            account.tokens.take(tokens, now_s)

    def ended(self, client: str) -> None:
        """A request that was let in has ended, however it did."""
        if account := self._accounts.get(client):
            account.live -= 1
            self._forget_if_idle(client, account)

    def _account(self, client: str, now_s: float) -> _Account:
        if client not in self._accounts:
            if len(self._accounts) >= self._max_clients:
                self._forget_one(now_s)
            self._accounts[client] = _Account()
            self._accounts[client].follow(self.book.of(client), now_s)
        self._accounts.move_to_end(client)
        return self._accounts[client]

    def _forget_if_idle(self, client: str, account: _Account) -> None:
        if not (account.live or account.requests or account.tokens):
            del self._accounts[client]

    def _forget_one(self, now_s: float) -> None:
        """One for whom it makes no difference if there is one; else one that has nothing running."""
        idle = [client for client, account in self._accounts.items() if not account.live]
        as_new = (client for client in idle if self._accounts[client].as_new(now_s))
        if (client := next(as_new, idle[0] if idle else None)) is not None:
            del self._accounts[client]


def _resized(bucket: Bucket | None, per_minute: int | None, now_s: float) -> Bucket | None:
    if per_minute is None:
        return None
    bucket = bucket or Bucket(per_minute, now_s)
    bucket.resize(per_minute, now_s)
    return bucket
