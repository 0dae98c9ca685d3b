"""A unix socket whose clients are known by their user id, in front of gRPC, which does not tell it.

The daemon accepts on the public socket, asks the kernel whose process connected (SO_PEERCRED, unix(7)), and passes
bytes on to a socket of gRPC's in a folder that only this user may enter. Its own end of that second connection has an
abstract name that it draws at random, and gRPC calls that name the peer: so a call's peer leads back to the user.
Nobody else can have the name, although /proc/net/unix shows it, as the kernel gives each to one socket at a time.

Everything runs on the daemon's event loop.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

from .acceptor import Acceptor, Peer, peer_of
from .pair import Pair

_GOODBYE_S = 1.0  # for clients to read the last words


class Relay:
    """Passes connections on, at most `connections` at a time, and of one user `connections_per_user`, as `Acceptor`."""

    def __init__(self, connections: int, connections_per_user: int) -> None:
        self._acceptor = Acceptor(connections, connections_per_user, self._take)
        self._inner: dict[socket.socket, str] = {}
        self._peers: dict[str, Peer] = {}
        self._pairs: set[Pair] = set()
        self._none = asyncio.Event()
        self._none.set()
        self._joining: set[asyncio.Task[None]] = set()

    def add(self, listener: socket.socket, inner: str) -> None:
        """Clients of `listener`, which listens, are passed on to gRPC's socket at the path `inner`."""
        self._inner[listener] = inner
        self._acceptor.add(listener)

    def start(self) -> None:
        """From here on connections are accepted."""
        self._acceptor.start()

    def peer(self, name: str) -> Peer | None:
        """Who is at the other end of the connection that gRPC knows by the abstract `name`; None if it is not ours."""
        return self._peers.get(name)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._pairs)

    async def close(self) -> None:
        """Accepts no more, and ends what there is. gRPC has to be stopped before: its last words are passed on."""
        self._acceptor.close()
        await asyncio.gather(*self._joining)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), _GOODBYE_S)
        for pair in self._pairs:
            pair.abort()
        await self._none.wait()

    def _take(self, listener: socket.socket, client: socket.socket, _: str) -> None:
        pair = Pair(self._left)
        self._entered(pair, peer_of(client))
        task = asyncio.get_running_loop().create_task(self._join(pair, client, self._inner[listener]))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, pair: Pair, client: socket.socket, inner: str) -> None:
        """Makes the second connection, and passes on in both directions. Nothing here waits for anybody."""
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
            self._acceptor.warn("cannot pass a connection on", reason=os.strerror(error.errno or 0))
            pair.abort()
            client.close()
            if server is not None:
                server.close()
            self._left(pair)

    def _entered(self, pair: Pair, peer: Peer) -> None:
        self._pairs.add(pair)
        self._none.clear()
        self._peers[pair.name] = peer

    def _left(self, pair: Pair) -> None:
        """Both connections of `pair` are closed: its name means nothing any more."""
        self._pairs.discard(pair)
        if not self._pairs:
            self._none.set()
        peer = self._peers.pop(pair.name, None)
        if peer is not None:
            self._acceptor.left(f"uid:{peer.uid}")
