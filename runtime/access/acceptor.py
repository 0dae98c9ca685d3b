"""Accepts connections, and closes at once those of a client that has its share. On the daemon's event loop."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from .seldom import Seldom
from .shares import Shares, client_at

BACKLOG = 128

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_ACCEPTED_AT_ONCE = 32  # calls that stream go on in between
_RETRY_S = 0.25
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Take = Callable[[socket.socket, socket.socket, str], None]
"""Is given the listener, a connection of it, and its client. Once that is closed, `Acceptor.left` has to know."""


@dataclass(frozen=True)
class Peer:
    """Whose process is at a connection's other end, or was when it connected."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """What the kernel says of a connected unix socket (SO_PEERCRED, unix(7))."""
    return Peer(*_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


class Acceptor:
    """Takes at most `connections` at a time, and of one client `connections_per_client`.

    Those beyond are closed at once: their clients find no daemon. Root and this user itself have their share beside
    the rest, so that a flood does not keep them out of unix sockets.
    """

    def __init__(self, connections: int, connections_per_client: int, take: Take) -> None:
        privileged = frozenset({"uid:0", f"uid:{os.geteuid()}"})
        self._shares = Shares(connections, connections_per_client, privileged)
        self._take = take
        self._listeners: list[socket.socket] = []
        self._retries: dict[socket.socket, asyncio.TimerHandle] = {}
        self._log = structlog.get_logger()
        self._seldom = Seldom()

    def add(self, listener: socket.socket) -> None:
        """Clients of `listener` will be taken; by `start` it listens."""
        listener.setblocking(False)
        self._listeners.append(listener)

    def start(self) -> None:
        """From here on connections are accepted."""
        for listener in self._listeners:
            self._watch(listener)

    def left(self, client: str) -> None:
        """A connection of `client` that was taken is closed."""
        self._shares.leave(client)

    def close(self) -> None:
        """Accepts no more. What was taken is not touched."""
        for handle in self._retries.values():
            handle.cancel()
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._listeners.clear()

    def warn(self, event: str, **fields: object) -> None:
        """Says something of connections, of which there may be many, in the log."""
        silent = self._seldom.passes()
        if silent is not None:
            self._log.warning(event, **fields, **({"silent_before": silent} if silent else {}))

    def _watch(self, listener: socket.socket) -> None:
        self._retries.pop(listener, None)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_MORE:
                    raise
                # The connection stays in the backlog, so without a pause the loop would do nothing but come here.
                self.warn("cannot accept connections", reason=os.strerror(error.errno))
                loop.remove_reader(listener)
                self._retries[listener] = loop.call_later(_RETRY_S, self._watch, listener)
                return
            client = _client_of(connection, address)
            if self._shares.enter(client):
                connection.setblocking(False)
                self._take(listener, connection, client)
            else:
                connection.close()
                self.warn("connection refused", caller=client, connections=self._shares.of(client))


def _client_of(connection: socket.socket, address: Any) -> str:
    if connection.family == socket.AF_UNIX:
        return f"uid:{peer_of(connection).uid}"
    return client_at(address[0])
