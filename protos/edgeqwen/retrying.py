"""Requests that are refused for now are sent again: when the daemon says, a little later by chance, and in time."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from typing import Any, TypeVar, cast

from .errors import TryAgain
from .messages import Event, Started

_JITTER = 0.5
"""Clients that were refused together come back apart: up to so much later than they were told."""

F = TypeVar("F", bound=Callable[..., Any])


class Tries:
    """How often a request may still be sent, and until when; both of a whole answer.

    Args:
        retries: how often it is sent again.
        timeout_s: of all tries together; None: as long as it takes.
        clock: monotonic seconds.
        chance: a number from 0 to 1.
    """

    def __init__(
        self,
        retries: int,
        timeout_s: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._left = retries
        self._clock, self._chance = clock, chance
        self._deadline_s = None if timeout_s is None else clock() + timeout_s

    @property
    def timeout_s(self) -> float | None:
        """What is left of it."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - self._clock())

    def wait_s(self, refused: TryAgain) -> float:
        """How long to wait before the next try. Raises `refused` if there is none, or none in time."""
        wait_s = refused.retry_after_s * (1 + _JITTER * self._chance())
        left_s = self.timeout_s
        if not self._left or (left_s is not None and wait_s >= left_s):
            raise refused
        self._left -= 1
        return wait_s


def retried(generate: F) -> F:
    """For a method of a client with `retries` that streams an answer. One that has begun is not asked for again."""

    @functools.wraps(generate)
    def again(client: Any, *, timeout_s: float | None = None, **asked: Any) -> Generator[Event, None, None]:
        tries, asked = Tries(client.retries, timeout_s), _kept(asked)
        while True:
            begun = False
            try:
                with closing(generate(client, timeout_s=tries.timeout_s, **asked)) as events:
                    for event in events:
                        begun |= not isinstance(event, Started)
                        yield event
            except TryAgain as refused:
                if begun:
                    raise
                wait_s = tries.wait_s(refused)
            else:
                return
            time.sleep(wait_s)

    return cast(F, again)


def retried_async(generate: F) -> F:
    """The same for asyncio."""

    @functools.wraps(generate)
    async def again(client: Any, *, timeout_s: float | None = None, **asked: Any) -> AsyncGenerator[Event, None]:
        tries, asked = Tries(client.retries, timeout_s), _kept(asked)
        while True:
            begun = False
            try:
                async with aclosing(generate(client, timeout_s=tries.timeout_s, **asked)) as events:
                    async for event in events:
                        begun |= not isinstance(event, Started)
                        yield event
            except TryAgain as refused:
                if begun:
                    raise
                wait_s = tries.wait_s(refused)
            else:
                return
            await asyncio.sleep(wait_s)

    return cast(F, again)


def _kept(asked: dict[str, Any]) -> dict[str, Any]:
    """Messages may come from what can be gone through once."""
    messages = asked.get("messages")
    return asked if messages is None else asked | {"messages": list(messages)}
