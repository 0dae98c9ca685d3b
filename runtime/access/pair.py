"""Two connections of which each gets what the other sends, at the speed of the slower reader."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import cast

BUFFER_BYTES = 64 << 10
"""What may wait in each direction, and one read of asyncio's (256 KiB) more, before the sender has to wait."""

_LAST_WORDS_S = 10.0  # for a client to take what is left once gRPC has ended the connection


class Pair:
    """A client's connection, and the one to the server that it is passed on to. `name` is drawn at random.

    Args:
        left: called once both are closed.
    """

    def __init__(self, left: Callable[[Pair], None]) -> None:
        self.name = f"edgeqwen-{secrets.token_hex(16)}"
        self._left = left
        self._closed = 0
        self._grace: asyncio.TimerHandle | None = None
        self.client, self.server = _End(self), _Server(self)
        self.client.other, self.server.other = self.server, self.client

    def go(self) -> None:
        """Both are connected: begin."""
        for transport in self._transports():
            transport.resume_reading()

    def close(self) -> None:
        """Ends both, once what waits has been sent, or after ten seconds."""
        for transport in self._transports():
            transport.close()
        if self._grace is None:
            self._grace = asyncio.get_running_loop().call_later(_LAST_WORDS_S, self.abort)

    def abort(self) -> None:
        """Ends both at once."""
        for transport in self._transports():
            transport.abort()

    def lost(self) -> None:
        """One of both is closed."""
        self._closed += 1
        if self._closed < 2:
            self.close()
            return
        if self._grace is not None:
            self._grace.cancel()
        self._left(self)

    def _transports(self) -> list[asyncio.Transport]:
        return [end.transport for end in (self.client, self.server) if end.transport is not None]


class _End(asyncio.Protocol):
    """One of the two. It reads nothing until its pair says so: `other` may not be connected yet."""

    other: _End

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(BUFFER_BYTES)
        # Not at once: in Debian 12's Python, 3.11.2, a transport begins to read after this call, paused or not.
        asyncio.get_running_loop().call_soon(self.transport.pause_reading)

    def data_received(self, data: bytes) -> None:
        assert self.other.transport is not None
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        """This end takes no more for now, so the other must send no more."""
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        """A client may say that it sends no more, and read on."""
        if self.other.transport is not None:
            self.other.transport.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._pair.lost()


class _Server(_End):
    def eof_received(self) -> bool:
        """gRPC never closes half a connection."""
        self._pair.close()
        return True
