"""A unix socket whose clients are known by their user id, in front of gRPC, which does not tell it.

The daemon accepts on the public socket, asks the kernel whose process connected (SO_PEERCRED, unix(7)), and passes
bytes on to a socket of gRPC's in a folder that only this user may enter. Its own end of that second connection has an
abstract name that it draws at random, and gRPC calls that name the peer: so a call's peer leads back to the user.
Nobody else can have the name, although /proc/net/unix shows it, as the kernel gives each to one socket at a time.

Everything runs on the daemon's event loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import structlog

from .pair import Pair
from .seldom import Seldom

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_BACKLOG = 128
_ACCEPTED_AT_ONCE = 32  # calls that stream go on in between
_RETRY_S = 0.25
_GOODBYE_S = 1.0  # for clients to read the last words
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True)
class Peer:
    """Whose process is at a connection's other end, or was when it connected."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """What the kernel says of a connected unix socket."""
    return Peer(*_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


class Relay:
    """Passes connections on, at most `connections` at a time, and of one user `connections_per_user`.

    Those beyond are closed at once: their clients find no daemon. Root and this user itself have their share beside
    the rest, so that a flood does not keep them out.
    """

    def __init__(self, connections: int, connections_per_user: int) -> None:
        self._most, self._most_of_user = connections, connections_per_user
        self._listeners: dict[socket.socket, str] = {}
        self._peers: dict[str, Peer] = {}
        self._of_user: Counter[int] = Counter()
        self._pairs: set[Pair] = set()
        self._none = asyncio.Event()
        self._none.set()
        self._joining: set[asyncio.Task[None]] = set()
        self._retries: dict[socket.socket, asyncio.TimerHandle] = {}
        self._log = structlog.get_logger()
        self._seldom = Seldom()

    def add(self, listener: socket.socket, inner: str) -> None:
        """Clients of `listener`, which listens, are passed on to gRPC's socket at the path `inner`."""
        listener.setblocking(False)
        self._listeners[listener] = inner

    def start(self) -> None:
        """From here on connections are accepted."""
        for listener in self._listeners:
            self._watch(listener)

    def peer(self, name: str) -> Peer | None:
        """Who is at the other end of the connection that gRPC knows by the abstract `name`; None if it is not ours."""
        return self._peers.get(name)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._pairs)

    async def close(self) -> None:
        """Accepts no more, and ends what there is. gRPC has to be stopped before: its last words are passed on."""
        for handle in self._retries.values():
            handle.cancel()
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._listeners.clear()
        await asyncio.gather(*self._joining)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), _GOODBYE_S)
        for pair in self._pairs:
            pair.abort()
        await self._none.wait()

    def _watch(self, listener: socket.socket) -> None:
        self._retries.pop(listener, None)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_MORE:
                    raise
                # The connection stays in the backlog, so without a pause the loop would do nothing but come here.
                self._warn("cannot accept connections", reason=os.strerror(error.errno))
                loop.remove_reader(listener)
                self._retries[listener] = loop.call_later(_RETRY_S, self._watch, listener)
                return
            peer = peer_of(client)
            if not self._has_room(peer.uid):
                client.close()
                self._warn("connection refused", caller=f"uid:{peer.uid}", connections=self._of_user[peer.uid])
                continue
            pair = Pair(self._left)
            self._entered(pair, peer)
            task = loop.create_task(self._join(pair, client, self._listeners[listener]))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)

    def _has_room(self, uid: int) -> bool:
        if self._of_user[uid] >= self._most_of_user:
            return False
        privileged = {0, os.geteuid()}
        return uid in privileged or sum(n for user, n in self._of_user.items() if user not in privileged) < self._most

    async def _join(self, pair: Pair, client: socket.socket, inner: str) -> None:
        """Makes the second connection, and passes on in both directions. Nothing here waits for anybody."""
        client.setblocking(False)
        server: socket.socket | None = None
        loop = asyncio.get_running_loop()
        try:
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.setblocking(False)
            server.bind(f"\0{pair.name}")
            server.connect(inner)
            await loop.create_unix_connection(lambda: pair.server, sock=server)
            await loop.connect_accepted_socket(lambda: pair.client, client)
            pair.go()
        except OSError as error:
            self._warn("cannot pass a connection on", reason=os.strerror(error.errno or 0))
            pair.abort()
            client.close()
            if server is not None:
                server.close()
            self._left(pair)

    def _entered(self, pair: Pair, peer: Peer) -> None:
        self._pairs.add(pair)
        self._none.clear()
        self._peers[pair.name] = peer
        self._of_user[peer.uid] += 1

    def _left(self, pair: Pair) -> None:
        """Both connections of `pair` are closed: its name means nothing any more."""
        self._pairs.discard(pair)
        if not self._pairs:
            self._none.set()
        peer = self._peers.pop(pair.name, None)
        if peer is not None:
            self._of_user[peer.uid] -= 1
            if not self._of_user[peer.uid]:
                del self._of_user[peer.uid]

    def _warn(self, event: str, **fields: object) -> None:
        silent = self._seldom.passes()
        if silent is not None:
            self._log.warning(event, **fields, **({"silent_before": silent} if silent else {}))
