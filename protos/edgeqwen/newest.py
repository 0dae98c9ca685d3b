"""The newest message of a stream: who takes his time gets what is true now, and not what was when he last looked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from typing import Generic, TypeVar

from .errors import ServerUnavailable

T = TypeVar("T")


def silence_s(interval_ms: int) -> float:
    """How long a daemon that sends something in every interval may be silent."""
    return max(10.0, 3 * interval_ms / 1000)


def newest_of(stream: Iterable[T], patience_s: float) -> Generator[T, None, None]:
    """What comes, the latest only. A thread reads it, which ends with the stream.

    Raises what reading raises, and ServerUnavailable after `patience_s` of silence.
    """
    slot: _Slot[T] = _Slot()
    threading.Thread(target=slot.fill, args=(stream,), name="edgeqwen-watch", daemon=True).start()
    while taken := slot.take(patience_s):
        yield from taken


async def newest_of_async(stream: AsyncIterable[T], patience_s: float) -> AsyncGenerator[T, None]:
    """As `newest_of`, with a task instead of a thread."""
    latest: asyncio.Queue[T] = asyncio.Queue(maxsize=1)

    async def fill() -> None:
        async for message in stream:
            if latest.full():
                latest.get_nowait()
            latest.put_nowait(message)

    filling = asyncio.create_task(fill())
    try:
        while True:
            taking = asyncio.create_task(latest.get())
            done, _ = await asyncio.wait({taking, filling}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if taking in done:
                yield taking.result()
                continue
            taking.cancel()
            if not done:
                raise _silent(patience_s)
            if latest.empty():
                filling.result()
                return
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


class _Slot(Generic[T]):
    """Room for one message."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: list[T] = []
        self._ended = False
        self._error: Exception | None = None

    def fill(self, stream: Iterable[T]) -> None:
        """Reads to the end; what stands here when the next message comes is lost."""
        error: Exception | None = None
        try:
            for message in stream:
                with self._changed:
                    self._messages = [message]
                    self._changed.notify()
        except Exception as raised:  # it is raised again, where somebody waits for it
            error = raised
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def take(self, patience_s: float) -> list[T]:
        """The message, once there is one; none at the end of the stream."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._messages or self._ended, patience_s):
                raise _silent(patience_s)
            taken, self._messages = self._messages, []
            if not taken and self._error is not None:
                raise self._error
            return taken


def _silent(patience_s: float) -> ServerUnavailable:
    return ServerUnavailable(f"the daemon has sent nothing for {patience_s:g} s")
