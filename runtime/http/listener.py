"""uvicorn on the daemon's own event loop, without its signal handlers, its clock, which would tick while idle, and its
way to accept connections, of which one client could have all."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..access.acceptor import BACKLOG, Acceptor, peer_of
from ..access.address import Address
from ..access.call_errors import CallErrors
from ..access.group import give_to_group
from ..access.places import UNIX, host_and_port, is_loopback
from ..api.generator import Generator
from ..configuration.access_settings import Tls
from ..errors import ConfigError, Fault
from ..models.registry import Models
from .app import BODY_TIMEOUT_S, Admit, make_app

MAX_HEADER_BYTES = 16 << 10
HEADER_TIMEOUT_S = 10.0
HANDSHAKE_TIMEOUT_S = 10.0

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_KEEP_ALIVE_S = 30
_GOODBYE_S = 1


class HttpListener:
    """A place to listen at, and the server there. Raises ConfigError for a place that is not allowed.

    Args:
        listen: `unix:PATH` or `HOST:PORT`.
        admit: lets callers in; as `make_app` takes it.
        socket_group: who may connect to a unix socket beside this user.
        connections: how many it takes at once, and how many of them one user of a unix socket or one address may have.
        tls: what TCP is encrypted with; without it only `insecure` lets it be open to other machines.
        errors: as `make_app` takes it.
    """

    def __init__(
        self,
        listen: str,
        max_body_bytes: int,
        admit: Admit = lambda connection, role: None,
        *,
        tls: Tls | None = None,
        insecure: bool = False,
        socket_group: str = "edgeqwen",
        connections: int = 256,
        connections_per_client: int = 64,
        header_timeout_s: float = HEADER_TIMEOUT_S,
        body_timeout_s: float = BODY_TIMEOUT_S,
        errors: CallErrors | None = None,
    ) -> None:
        self._listen, self._max_body_bytes, self._admit = listen, max_body_bytes, admit
        self._header_timeout_s, self._body_timeout_s = header_timeout_s, body_timeout_s
        self._errors = errors
        self._server: uvicorn.Server | None = None
        self._acceptor = Acceptor(connections, connections_per_client, self._take)
        self._joining: set[asyncio.Task[None]] = set()
        self._context: ssl.SSLContext | None = None
        self._socket_group = socket_group
        self._tls = None if self._is_unix else tls
        try:
            self._address = Address(listen, off_loopback=tls is not None or insecure)
        except ConfigError as error:
            raise _renamed(error) from error

    def require_free(self) -> None:
        """Raises AddressInUse if a process listens here."""
        try:
            self._address.require_free()
        except ConfigError as error:
            raise _renamed(error) from error

    async def start(self, models: Models) -> str:
        """Serves `models`; returns where, with the port that was chosen for port 0. Raises as `require_free` does."""
        app = make_app(
            models,
            Generator(models),
            self._admit,
            max_body_bytes=self._max_body_bytes,
            hosts=_LOOPBACK if self._is_bare_loopback else None,
            body_timeout_s=self._body_timeout_s,
            errors=self._errors,
        )
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GOODBYE_S,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        if self._tls is not None:
            config.ssl_certfile, config.ssl_keyfile = self._tls.certificate, self._tls.key
            if self._tls.client_ca is not None:
                config.ssl_ca_certs, config.ssl_cert_reqs = str(self._tls.client_ca), ssl.CERT_REQUIRED
        config.load()
        self._context = config.ssl
        try:
            listen = self._address.bind(self._bind)
        except ConfigError as error:
            raise _renamed(error) from error
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[])
        self._acceptor.start()
        return listen

    def reload(self) -> None:
        """Connections from now on get the certificate that is in its files now."""
        if self._tls is not None and self._context is not None:
            try:
                self._context.load_cert_chain(self._tls.certificate, self._tls.key, password=lambda: b"")
            except (OSError, ssl.SSLError) as error:
                structlog.get_logger().error("new certificate ignored", listen=self._listen, reason=str(error))

    async def close(self) -> None:
        """Ends it: those that are reading the end of an answer have a second."""
        self._acceptor.close()
        await asyncio.sleep(0)  # each has begun, so that it closes its connection
        for task in self._joining:
            task.cancel()
        await asyncio.gather(*self._joining, return_exceptions=True)
        if self._server is not None:
            await self._server.shutdown(sockets=[])
        self._address.release()

    @property
    def _is_unix(self) -> bool:
        return self._listen.startswith(UNIX)

    @property
    def _is_bare_loopback(self) -> bool:
        return not self._is_unix and self._tls is None and is_loopback(host_and_port(self._listen)[0])

    def _take(self, listener: socket.socket, connection: socket.socket, client: str) -> None:
        task = asyncio.get_running_loop().create_task(self._join(connection, client))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, connection: socket.socket, client: str) -> None:
        """Shakes hands where there is TLS, and talks. Whoever does not, or leaves at once, is forgotten in silence."""
        assert self._server is not None
        server, ended = self._server, ExitStack()
        ended.callback(self._acceptor.left, client)

        def talk() -> _Connection:
            return _Connection(server, self._header_timeout_s, ended.close)

        handshake_s = HANDSHAKE_TIMEOUT_S if self._context else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                talk, connection, ssl=self._context, ssl_handshake_timeout=handshake_s
            )
        except BaseException as error:
            connection.close()
            ended.close()
            if not isinstance(error, OSError):
                raise

    def _bind(self, listen: str) -> int:
        """Raises RuntimeError, as gRPC does."""
        try:
            if self._is_unix:
                made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._acceptor.add(made)
                made.bind(listen.removeprefix(UNIX))
                give_to_group(Path(listen.removeprefix(UNIX)), self._socket_group)
                made.listen(BACKLOG)
                return 1
            host, _, port = listen.rpartition(":")
            family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[
                0
            ]
            made = socket.socket(family, kind, protocol)
            self._acceptor.add(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(place)
            made.listen(BACKLOG)
        except OSError as error:
            raise RuntimeError(str(error)) from error
        bound: int = made.getsockname()[1]
        return bound


class _Connection(H11Protocol):
    """A client that connects and does not ask, or asks without end, is sent away.

    `scope["state"]` has the `uid` of who is at the other end of a unix socket, and the `certificate` of a TLS client.
    """

    _waiting: asyncio.TimerHandle | None = None

    def __init__(self, server: uvicorn.Server, header_timeout_s: float, ended: Callable[[], None]) -> None:
        super().__init__(server.config, server.server_state, server.lifespan.state)
        self._header_timeout_s, self._ended = header_timeout_s, ended

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        connection, certificate = transport.get_extra_info("socket"), transport.get_extra_info("peercert")
        self.app_state = {**self.app_state, "uid": _uid(connection), "certificate": certificate}
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._ended()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """The timer runs from the first byte of a request, not from the last."""
        asked = self.cycle is not None and not self.cycle.response_complete
        if asked:
            self._forget()
        elif self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(self._header_timeout_s, self.transport.close)

    def _forget(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def _uid(connection: socket.socket | None) -> int | None:
    return peer_of(connection).uid if connection is not None and connection.family == socket.AF_UNIX else None


def _renamed(error: ConfigError) -> ConfigError:
    """For the setting that it is about."""
    return ConfigError([Fault("http_listen", fault.message) for fault in error.faults], error.subject)
