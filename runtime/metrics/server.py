"""HTTP for a scraper: GET /metrics and nothing else, in the event loop, without a thread.

h11 reads what comes, strictly and within bounds. A client has a few seconds to say what it wants and to take the
answer; there are few connections, and a new one takes the place of that which has been still for longest.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import h11
import structlog

from .exposition import Page

PATH = "/metrics"
MAX_HEAD_BYTES = 8192
MAX_CONNECTIONS = 16
REQUEST_S = 5.0
"""How long a request may take to come, and an answer to go."""
IDLE_S = 150.0
"""How long a connection may wait for its next request: scrapers ask every minute or so, and use it again."""
_LINGER_S = 1.0

Render = Callable[[str], Awaitable[Page]]
"""Makes the page for an Accept header."""


@dataclass(eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    active_s: float = field(default_factory=time.monotonic)


class MetricsServer:
    """Answers on one socket, from `start` to `close`.

    Args:
        request_s: for a request to come, and for an answer to go, in seconds.
        idle_s: between two requests of a connection, in seconds.
    """

    def __init__(self, render: Render, *, request_s: float = REQUEST_S, idle_s: float = IDLE_S) -> None:
        self._render = render
        self._request_s = request_s
        self._idle_s = idle_s
        self._log = structlog.get_logger()
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self._rendering = asyncio.Lock()
        self._server: asyncio.Server | None = None

    async def start(self, bound: socket.socket) -> None:
        """Serves on `bound`, and closes it in the end."""
        start = asyncio.start_unix_server if bound.family == socket.AF_UNIX else asyncio.start_server
        self._server = await start(self._accept, sock=bound, limit=MAX_HEAD_BYTES)

    async def close(self) -> None:
        """Stops at once; scrapers come again."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._connections.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # their sockets are closed by the loop's next turn

    @property
    def connections(self) -> int:
        return len(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            stillest = min(self._connections, key=lambda each: each.active_s)
            self._connections.pop(stillest).cancel()
        connection = _Connection(reader, writer)
        task = asyncio.create_task(self._serve(connection))
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._gone(connection))

    def _gone(self, connection: _Connection) -> None:
        """Not the task's own work: one that is cancelled before it began does nothing."""
        self._connections.pop(connection, None)
        connection.writer.transport.abort()

    async def _serve(self, connection: _Connection) -> None:
        protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            try:
                await self._converse(connection, protocol)
            except h11.RemoteProtocolError as error:
                connection.writer.write(_send(protocol, error.error_status_hint, _text(str(error)), closing=True))
            await _hang_up(connection)
        except (TimeoutError, OSError):
            pass

    async def _converse(self, connection: _Connection, protocol: h11.Connection) -> None:
        """Answers one request after the other, until one side has had enough."""
        patience_s = self._request_s
        while request := await self._next_request(connection, protocol, patience_s):
            status, page = await self._answer(request)
            connection.writer.write(_send(protocol, status, page, with_body=request.method != b"HEAD"))
            async with asyncio.timeout(self._request_s):
                await connection.writer.drain()
            if protocol.our_state is not h11.DONE:
                return
            protocol.start_next_cycle()
            patience_s = self._idle_s

    async def _next_request(
        self, connection: _Connection, protocol: h11.Connection, patience_s: float
    ) -> h11.Request | None:
        """The next request; None if the client left. Its first byte may take `patience_s`. Raises TimeoutError."""
        request: h11.Request | None = None
        async with asyncio.timeout(patience_s) as limit:
            waiting = True
            while True:
                event = protocol.next_event()
                if event is h11.NEED_DATA:
                    protocol.receive_data(await connection.reader.read(MAX_HEAD_BYTES))
                    connection.active_s = time.monotonic()
                    if waiting:  # from now on it is the whole request that has to come, however many bytes trickle in
                        limit.reschedule(asyncio.get_running_loop().time() + self._request_s)
                        waiting = False
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    raise h11.RemoteProtocolError("a request for metrics has no body", error_status_hint=413)
                else:
                    return request if isinstance(event, h11.EndOfMessage) else None

    async def _answer(self, request: h11.Request) -> tuple[int, Page]:
        if request.method not in (b"GET", b"HEAD"):
            return 405, _text("only GET and HEAD are known here")
        if request.target.partition(b"?")[0] != PATH.encode():
            return 404, _text(f"metrics are at {PATH}")
        accept = b",".join(value for name, value in request.headers if name == b"accept")
        try:
            async with self._rendering:  # whoever asks faster than it can be answered waits
                return 200, await self._render(accept.decode("latin-1"))
        except Exception:
            self._log.exception("metrics cannot be read")
            return 500, _text("metrics cannot be read: the daemon's log says why")


def _send(protocol: h11.Connection, status: int, page: Page, *, closing: bool = False, with_body: bool = True) -> bytes:
    """An answer as bytes; none where the client is past being answered."""
    if protocol.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return b""
    headers = [
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(page.body))),
        ("Vary", "Accept"),
        *([("Allow", "GET, HEAD")] if status == 405 else []),
        *([("Connection", "close")] if closing else []),
    ]
    response = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)
    events = [response, *([h11.Data(data=page.body)] if with_body else []), h11.EndOfMessage()]
    return b"".join(protocol.send(event) or b"" for event in events)


def _text(line: str) -> Page:
    return Page("text/plain; charset=utf-8", f"{line}\n".encode())


async def _hang_up(connection: _Connection) -> None:
    """Says goodbye, and reads what still comes: a socket that is closed on unread bytes takes its answer with it."""
    async with asyncio.timeout(_LINGER_S):
        await connection.writer.drain()
        connection.writer.write_eof()
        while await connection.reader.read(MAX_HEAD_BYTES):
            pass
