"""The ways in: unix sockets, behind which callers have user ids, and TCP ports, with TLS or without."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from ..errors import ConfigError, Fault
from .acceptor import BACKLOG
from .call_errors import CallErrors
from .certificates import EXPIRES_SOON_DAYS, Certificates
from .gate import CALLS_PER_CALLER, Gate
from .group import give_to_group
from .places import INNER_NAME_CHARS, UNIX, host_and_port, inner_folder, is_loopback
from .relay import Relay
from .rules import Rules

if TYPE_CHECKING:
    import grpc.aio

    from .gate import Refuse
_HANDSHAKE_MS = 10_000  # whoever connects has to begin to talk, or makes room for others


class Entrance:
    """Opens ways to a server. Make the server with its `gate` and `options`, then `attach` it.

    Args:
        refuse: ends a call that the gate does not let pass.
        certificates: TCP ports are TLS if there are any.
        socket_group: who may connect to unix sockets beside this user; where there is no such group, or this user may
            not give a file to it, its own group.
        connections: how many unix sockets take at once, and how many of them one user may have.
        calls_per_caller: as `Gate` takes it.
    """

    def __init__(
        self,
        rules: Rules,
        refuse: Refuse,
        certificates: Certificates | None = None,
        *,
        socket_group: str,
        connections: int,
        connections_per_user: int,
        calls_per_caller: int = CALLS_PER_CALLER,
    ) -> None:
        self._certificates = certificates
        self._group = socket_group
        self._relay = Relay(connections, connections_per_user)
        self.errors = CallErrors()
        """What callers got, by whichever way they came in."""
        self.gate = Gate(rules, refuse, self._relay.peer, self.errors, calls_per_caller=calls_per_caller)
        self.options = (
            ("grpc.max_allowed_incoming_connections", connections),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        )
        """Of the server: limits of its TCP ports, and of what clients there may wait for."""
        self._server: grpc.aio.Server | None = None
        self._inner: list[Path] = []  # sockets of gRPC's
        self._bare: list[str] = []  # open to the network in plaintext
        self._log = structlog.get_logger()

    def warnings(self) -> list[tuple[str, str]]:
        """What whoever runs this daemon should know of it, and what to do about it."""
        found = [
            (f"{listen} is open to the network without TLS, as `insecure: true` says", "set tls, or listen on loopback")
            for listen in self._bare
        ]
        days = self.certificate_days_left
        if days is not None and days <= EXPIRES_SOON_DAYS:
            when = f"expires in {days:.0f} days" if days > 0 else "has expired"
            found.append((f"the certificate {when}", "replace its files, no restart is needed"))
        return found

    @property
    def certificate_days_left(self) -> float | None:
        """Until the server's certificate expires; None without one."""
        return self._certificates.days_left if self._certificates is not None else None

    def reload(self, rules: Rules) -> None:
        """From the next call on `rules` count, and from the next connection on the certificates that are there now."""
        self.gate.rules = rules
        if self._certificates is not None:
            self._certificates.reload()

    def attach(self, server: grpc.aio.Server) -> None:
        """The server to open ways to."""
        self._server = server

    def add_port(self, listen: str) -> int:
        """Binds `unix:PATH` or `HOST:PORT`; returns the port, 1 for a socket. Raises OSError or RuntimeError."""
        assert self._server is not None
        if listen.startswith(UNIX):
            return self._add_socket(self._server, Path(listen.removeprefix(UNIX)))
        if self._certificates is not None:
            return self._server.add_secure_port(listen, self._certificates.credentials())
        port = self._server.add_insecure_port(listen)
        if not is_loopback(host_and_port(listen)[0]):
            self._bare.append(listen)
            self._log.warning("open to the network without TLS", listen=listen)
        return port

    def start(self) -> None:
        """From here on unix sockets accept; the server has been started."""
        self._relay.start()

    async def close(self) -> None:
        """Closes every way; the server has been stopped."""
        await self._relay.close()
        for inner in self._inner:
            inner.unlink(missing_ok=True)
            with suppress(OSError):  # another daemon, which took the address over, has its socket there too
                inner.parent.rmdir()

    def _add_socket(self, server: grpc.aio.Server, public: Path) -> int:
        folder = inner_folder(public)
        _make_private(folder)
        _remove_dead(folder)
        inner = folder / secrets.token_hex(INNER_NAME_CHARS // 2)
        server.add_insecure_port(f"{UNIX}{inner}")
        self._inner.append(inner)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fspath(public))
            give_to_group(public, self._group)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        self._relay.add(listener, os.fspath(inner))
        return 1


def _make_private(folder: Path) -> None:
    """A folder that only this user may enter; one that a dead daemon left is used again. Raises ConfigError."""
    with suppress(FileExistsError):
        folder.mkdir(0o700)
        folder.chmod(0o700)  # whatever the umask is
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
        message = f"{folder} is in the way of a folder that only this user may enter: remove it"
        raise ConfigError([Fault("listen", message)])


def _remove_dead(folder: Path) -> None:
    """Sockets that daemons left which were killed."""
    for path in folder.iterdir():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:  # it lives, and is busy
                pass
