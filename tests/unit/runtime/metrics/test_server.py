"""HTTP for scrapers: what is asked properly is answered, and nobody who behaves badly stays."""

from __future__ import annotations

import asyncio
import http.client
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runtime.metrics.exposition import Page
from runtime.metrics.server import MAX_CONNECTIONS, MAX_HEAD_BYTES, MetricsServer

TIMEOUT_S = 20
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Pages:
    """Answers with the Accept header that it got."""

    accepts: list[str] = field(default_factory=list)
    fail: bool = False
    body: Callable[[str], bytes] = lambda accept: f"page for {accept}\n".encode()

    async def __call__(self, accept: str) -> Page:
        self.accepts.append(accept)
        if self.fail:
            raise RuntimeError("no figures")
        return Page("text/plain; version=0.0.4; charset=utf-8", self.body(accept))


@dataclass
class Place:
    server: MetricsServer
    pages: Pages
    path: str

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)

    async def say(self, *parts: bytes) -> bytes:
        """Everything that comes back until the server hangs up."""
        reader, writer = await self.connect()
        for part in parts:
            writer.write(part)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return answer


@asynccontextmanager
async def serving(pages: Pages | None = None, **limits: float) -> AsyncIterator[Place]:
    """A server on a unix socket. Hangs become TimeoutErrors."""
    pages = pages or Pages()
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:
        path = str(Path(folder) / "m.sock")
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(path)
        server = MetricsServer(pages, **limits)
        await server.start(bound)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                yield Place(server, pages, path)
        finally:
            await server.close()
            await asyncio.sleep(0)  # the clients' transports close


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_a_scraper_gets_the_page_for_what_it_accepts() -> None:
    """All Accept headers count; the answer says what it is and how long."""
    async with serving() as place:
        answer = await place.say(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: a/b\r\nAccept: c/d;q=0.5\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"page for a/b,c/d;q=0.5\n"
    assert head.splitlines()[0] == b"HTTP/1.1 200 OK"
    assert b"content-type: text/plain; version=0.0.4; charset=utf-8" in head.lower()
    assert f"content-length: {len(body)}".encode() in head.lower()


async def test_a_connection_is_used_again() -> None:
    """As Prometheus does from one scrape to the next."""
    async with serving() as place:
        reader, writer = await place.connect()
        for _ in range(3):
            writer.write(GET)
            assert status_of(await reader.readuntil(b"\r\n\r\n")) == 200
            assert await reader.readexactly(10) == b"page for \n"
        writer.close()


async def test_http_1_0_is_answered_once() -> None:
    """Then the server hangs up, as that version wants it."""
    async with serving() as place:
        reader, writer = await place.connect()
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"page for \n")
        writer.close()


async def test_head_has_no_body() -> None:
    """Only what a GET would have said of it."""
    async with serving() as place:
        answer = await place.say(GET.replace(b"GET", b"HEAD"))
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 10" in answer.lower()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /metrics?name[]=up HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 413),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2 * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
    ],
)
async def test_anything_else_gets_the_status_for_it(request_: bytes, status: int) -> None:
    """Also what is no HTTP; and the next client is answered."""
    async with serving() as place:
        assert status_of(await place.say(request_)) == status
        assert status_of(await place.say(GET)) == 200


async def test_figures_that_cannot_be_read_are_an_error_and_no_silence() -> None:
    """500; why is for the log, not for the network."""
    async with serving(Pages(fail=True)) as place:
        answer = await place.say(GET)
    assert status_of(answer) == 500
    assert b"no figures" not in answer


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost:"])
async def test_who_does_not_say_what_it_wants_is_hung_up_on(sent: bytes) -> None:
    """Nothing or half a request."""
    async with serving(request_s=0.01) as place:
        reader, writer = await place.connect()
        writer.write(sent)
        assert await reader.read() == b""
        writer.close()


async def test_a_request_that_trickles_in_does_not_buy_time_with_each_byte() -> None:
    """A slow loris: what counts is the whole request. Bytes come here for as long as the server takes them."""
    async with serving(request_s=0.05) as place:
        reader, writer = await place.connect()
        gone = asyncio.create_task(reader.read())
        while not gone.done():
            writer.write(b"X")
            await asyncio.sleep(0.005)  # faster than it would be hung up on if each byte bought time
        assert gone.exception() is not None or gone.result() == b""
        writer.close()
        assert place.pages.accepts == []


async def test_who_takes_no_answer_is_hung_up_on() -> None:
    """The server does not keep what nobody reads."""
    async with serving(Pages(body=lambda accept: b"x" * 50_000_000), request_s=0.05) as place:
        _, writer = await place.connect()
        writer.transport.pause_reading()
        writer.write(GET)
        while not place.pages.accepts:
            await asyncio.sleep(0)
        while place.server.connections:
            await asyncio.sleep(0.01)
        writer.transport.abort()


async def test_a_new_client_takes_the_place_of_the_stillest() -> None:
    """However many connections somebody holds open, a scrape is answered, and their number is bounded."""
    async with serving(request_s=TIMEOUT_S) as place:
        held = [await place.connect() for _ in range(MAX_CONNECTIONS)]
        while place.server.connections < MAX_CONNECTIONS:
            await asyncio.sleep(0)
        assert status_of(await place.say(GET)) == 200
        assert await held[0][0].read() == b""
        assert place.server.connections <= MAX_CONNECTIONS
        for _, writer in held:
            writer.close()


async def test_closing_does_not_wait_for_clients() -> None:
    """Who is connected hears that it is over."""
    async with serving(request_s=TIMEOUT_S) as place:
        reader, writer = await place.connect()
        while not place.server.connections:
            await asyncio.sleep(0)
        await place.server.close()
        assert await reader.read() == b""
        writer.close()


HEADS = st.builds(
    lambda method, target, version, headers, end: (
        method
        + b" "
        + target
        + b" HTTP/"
        + version
        + b"\r\n"
        + b"".join(k + b":" + v + b"\r\n" for k, v in headers)
        + end
    ),
    st.sampled_from([b"GET", b"HEAD", b"POST", b"get", b""]) | st.binary(max_size=8),
    st.sampled_from([b"/metrics", b"*", b"http://x/metrics"]) | st.binary(max_size=20),
    st.sampled_from([b"1.1", b"1.0", b"2.0", b"9"]) | st.binary(max_size=3),
    st.lists(
        st.tuples(
            st.sampled_from([b"Host", b"Accept", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect"])
            | st.binary(max_size=6),
            st.sampled_from([b" x", b"chunked", b"5", b"-1", b" close", b"100-continue", b"Upgrade"])
            | st.binary(max_size=20),
        ),
        max_size=5,
    ),
    st.sampled_from([b"\r\n", b"", b"\r\nabc", b"\r\n5\r\nhello\r\n0\r\n\r\n"]),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(HEADS | st.binary(max_size=200), max_size=3))
@example([GET, GET])
def test_whatever_comes_is_answered_or_hung_up_on(parts: list[bytes]) -> None:
    """Every answer is HTTP with a status of ours, no connection is left over, and the next scrape works."""

    async def talk() -> None:
        async with serving(request_s=TIMEOUT_S) as place:
            answer = await place.say(*parts)
            assert not answer or status_of(answer) in (200, 400, 404, 405, 413, 431, 501)
            assert status_of(await place.say(GET)) == 200
            while place.server.connections:
                await asyncio.sleep(0)

    asyncio.run(talk())


def test_a_real_client_understands_it(tmp_path: Path) -> None:
    """The standard library's, over TCP on loopback."""

    async def ask() -> tuple[int, bytes]:
        server = MetricsServer(Pages())
        bound = socket.create_server(("127.0.0.1", 0))
        await server.start(bound)
        try:
            return await asyncio.to_thread(_get, bound.getsockname()[1])
        finally:
            await server.close()

    assert asyncio.run(ask()) == (200, b"page for text/plain\n")


def _get(port: int) -> tuple[int, bytes]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        client.request("GET", "/metrics", headers={"Accept": "text/plain"})
        response = client.getresponse()
        return response.status, response.read()
    finally:
        client.close()
