"""The newest message of a stream, for threads and for asyncio: nothing piles up, and the end is what it was."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator

import pytest

from edgeqwen.errors import ServerUnavailable
from edgeqwen.newest import newest_of, newest_of_async, silence_s

PATIENCE_S = 20.0


class Stream:
    """Numbers as a test sends them; `asked` tells that the reader wants the next, and has put the last one away."""

    def __init__(self) -> None:
        self.sent: queue.Queue[int | Exception | None] = queue.Queue()
        self.asked: queue.Queue[bool] = queue.Queue()

    def __iter__(self) -> Iterator[int]:
        while True:
            self.asked.put(True)
            message = self.sent.get(timeout=PATIENCE_S)
            if message is None:
                return
            if isinstance(message, Exception):
                raise message
            yield message

    def send(self, *messages: int) -> None:
        """Returns when the reader has taken all of them."""
        for message in messages:
            self.asked.get(timeout=PATIENCE_S)
            self.sent.put(message)
        self.asked.get(timeout=PATIENCE_S)
        self.asked.put(True)


def test_who_looks_late_sees_the_newest() -> None:
    """What came in between is gone, and what comes next is waited for."""
    stream = Stream()
    newest = newest_of(stream, PATIENCE_S)
    stream.sent.put(1)
    assert next(newest) == 1
    stream.asked.get(timeout=PATIENCE_S)
    stream.send(2, 3, 4)
    assert next(newest) == 4
    stream.sent.put(None)
    assert list(newest) == []


def test_the_last_message_comes_before_the_end() -> None:
    """And an error after it, as it was."""
    assert list(newest_of([7], PATIENCE_S)) == [7]
    stream = Stream()
    newest = newest_of(stream, PATIENCE_S)
    stream.sent.put(5)
    stream.sent.put(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        list(newest)


def test_silence_is_an_end_too() -> None:
    """A daemon whose machine has died says nothing at all."""
    stream = Stream()
    with pytest.raises(ServerUnavailable, match="sent nothing for"):
        next(newest_of(stream, 0.01))
    stream.sent.put(None)


async def test_for_asyncio() -> None:
    """The same: the newest, then the end or the error."""
    gate, taken = asyncio.Event(), asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        yield 1
        await gate.wait()
        for number in (2, 3, 4):
            yield number
        taken.set()
        raise ValueError("broken")

    newest = newest_of_async(numbers(), PATIENCE_S)
    assert await anext(newest) == 1
    gate.set()
    await taken.wait()
    assert await anext(newest) == 4
    with pytest.raises(ValueError, match="broken"):
        await anext(newest)


async def test_for_asyncio_the_end_and_silence() -> None:
    """One ends quietly, the other does not."""
    never = asyncio.Event()

    async def one() -> AsyncIterator[int]:
        yield 1

    async def silent() -> AsyncIterator[int]:
        await never.wait()
        yield 0

    assert [number async for number in newest_of_async(one(), PATIENCE_S)] == [1]
    with pytest.raises(ServerUnavailable, match="sent nothing"):
        await anext(newest_of_async(silent(), 0.01))


def test_patience_grows_with_the_interval() -> None:
    """Three intervals, ten seconds at least."""
    assert (silence_s(100), silence_s(60_000)) == (10.0, 180.0)
