"""The relay in front of gRPC's socket: bytes, their speed, their ends, and how many connections there may be."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog

from runtime.access.acceptor import Peer, peer_of
from runtime.access.pair import BUFFER_BYTES
from runtime.access.relay import Relay

TIMEOUT_S = 20
ME = Peer(os.getpid(), os.geteuid(), os.getegid())
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """In /tmp: the path of a unix socket has room for about 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as name:
        yield Path(name)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes, and ends when it ends."""
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def relaying(
    folder: Path, serve: Serve = echo, *, connections: int = 8, per_user: int = 8
) -> AsyncIterator[Relay]:
    """A relay from the socket `s` to a server at `g`."""
    server = await asyncio.start_unix_server(serve, folder / "g")
    relay = Relay(connections, per_user)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/s")
    listener.listen()
    relay.add(listener, f"{folder}/g")
    relay.start()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield relay
    finally:
        server.close()
        await relay.close()


async def connect(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(folder / "s")


async def none_left(relay: Relay) -> None:
    """Returns when all connections are gone, which the loop's next turns bring about."""
    while relay.connections:
        await asyncio.sleep(0.001)


async def test_bytes_arrive_in_order_in_both_directions(folder: Path) -> None:
    """Ten megabytes, echoed; then the client says that it sends no more, and still reads to the end."""
    sent = os.urandom(1 << 20) * 10
    async with relaying(folder) as relay:
        reader, writer = await connect(folder)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == sent
        writer.close()
        await none_left(relay)


async def test_the_servers_end_leads_back_to_the_process(folder: Path) -> None:
    """For as long as the connection lives; the name is the kernel's to give, so nobody else can have it."""
    names: asyncio.Queue[str] = asyncio.Queue()

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await names.put(writer.get_extra_info("peername").decode().removeprefix("\0"))
        await echo(reader, writer)

    async with relaying(folder, look) as relay:
        _, writer = await connect(folder)
        name = await names.get()
        assert relay.peer(name) == ME
        assert relay.peer(name + "0") is None
        with socket.socket(socket.AF_UNIX) as forger, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            forger.bind(f"\0{name}")
        writer.close()
        await none_left(relay)
        assert relay.peer(name) is None


async def test_a_client_that_does_not_read_holds_no_memory(folder: Path) -> None:
    """What waits for it is bounded, and the server has to wait."""
    written = 0
    stuck = asyncio.Event()

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.transport.set_write_buffer_limits(0)
        try:
            while True:
                writer.write(bytes(1 << 16))
                written += 1 << 16
                async with asyncio.timeout(0.2):
                    await writer.drain()
        except TimeoutError:
            stuck.set()
        except ConnectionError:
            pass
        writer.transport.abort()

    async with relaying(folder, flood) as relay:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{folder}/s")
            await stuck.wait()
            (pair,) = relay._pairs
            assert pair.client.transport is not None
            assert pair.client.transport.get_write_buffer_size() <= BUFFER_BYTES + (256 << 10)
            assert written < 4 << 20
        await none_left(relay)


async def test_a_server_that_does_not_read_makes_the_client_wait(folder: Path) -> None:
    """The same in the other direction."""
    done = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await done.wait()
        writer.transport.abort()

    async with relaying(folder, deaf) as relay:
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect(f"{folder}/s")
            sent, refusals = 0, 0
            while refusals < 20:  # the relay has had its turns in between
                try:
                    sent += client.send(bytes(1 << 16))
                    refusals = 0
                except BlockingIOError:
                    refusals += 1
                    await asyncio.sleep(0.005)
            assert sent < 4 << 20
            (pair,) = relay._pairs
            assert pair.server.transport is not None
            assert pair.server.transport.get_write_buffer_size() <= BUFFER_BYTES + (256 << 10)
        done.set()
        await none_left(relay)


@pytest.mark.parametrize("linger", [False, True])
async def test_a_client_that_vanishes_is_forgotten(folder: Path, linger: bool) -> None:
    """With bytes under way in both directions or without, and the server hears of it."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(100):
                writer.write(bytes(1 << 18))
        except ConnectionError:
            pass
        writer.transport.abort()
        ended.set()

    async with relaying(folder, serve) as relay:
        client = socket.socket(socket.AF_UNIX)
        client.connect(f"{folder}/s")
        client.send(b"x" * 1000)
        if linger:
            assert await asyncio.to_thread(client.recv, 10) == bytes(10)
        client.close()
        await ended.wait()
        await none_left(relay)


async def test_the_servers_last_words_arrive(folder: Path) -> None:
    """A server that closes right after its answer has it passed on, also when the relay is closed at once."""

    async def goodbye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"goodbye" * 10_000)
        writer.close()

    async with relaying(folder, goodbye) as relay:
        reader, writer = await connect(folder)
        writer.write(b"x")
        heard = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        await relay.close()
        assert await heard == b"goodbye" * 10_000
        writer.close()


async def test_one_user_has_a_share(folder: Path) -> None:
    """Beyond it connections are closed at once; when one ends, there is room again."""
    with structlog.testing.capture_logs() as lines:
        async with relaying(folder, per_user=2) as relay:
            first, second = await connect(folder), await connect(folder)
            for reader, writer in (first, second):
                writer.write(b"a")
                assert await reader.read(1) == b"a"
            refused, unused = await connect(folder)
            assert await refused.read() == b""
            unused.close()
            first[1].close()
            while relay.connections == 2:
                await asyncio.sleep(0.001)
            reader, writer = await connect(folder)
            writer.write(b"b")
            assert await reader.read(1) == b"b"
            for each in (second[1], writer):
                each.close()
            await none_left(relay)
    assert [line["event"] for line in lines] == ["connection refused"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
async def test_a_flood_from_one_user_keeps_no_other_out(folder: Path) -> None:
    """Nor do many users together keep root out."""
    folder.chmod(0o755)

    def connect_as(uid: int) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        os.seteuid(uid)
        try:
            client.connect(f"{folder}/s")
        finally:
            os.seteuid(0)
        client.settimeout(TIMEOUT_S)
        return client

    async def answered(client: socket.socket) -> bool:
        def ask() -> bool:
            try:
                client.send(b"a")
                return client.recv(1) == b"a"
            except OSError:
                return False

        return await asyncio.to_thread(ask)

    async with relaying(folder, connections=6, per_user=4) as relay:
        (folder / "s").chmod(0o666)
        flood = [connect_as(12345) for _ in range(40)]
        assert sum([await answered(each) for each in flood]) == 4
        others = [connect_as(12346) for _ in range(4)]
        assert [await answered(each) for each in others] == [True, True, False, False]
        root = connect_as(0)
        assert await answered(root)
        for each in (*flood, *others, root):
            each.close()
        await none_left(relay)


async def test_without_file_descriptors_clients_wait_and_then_come_in(folder: Path) -> None:
    """Nothing spins or dies meanwhile, and the log says it once in a while."""
    with structlog.testing.capture_logs() as lines:
        async with relaying(folder) as relay:
            reader, writer = await connect(folder)
            writer.write(b"a")
            assert await reader.read(1) == b"a"
            waiting = socket.socket(socket.AF_UNIX)
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, before[1]))
            held = []
            try:
                while True:  # the holes below
                    held.append(os.dup(0))
            except OSError:
                pass
            try:
                waiting.connect(f"{folder}/s")
                while not lines:
                    await asyncio.sleep(0.001)
                writer.write(b"b")
                assert await reader.read(1) == b"b"
            finally:
                for each in held:
                    os.close(each)
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            waiting.send(b"c")
            waiting.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(waiting, 1) == b"c"
            waiting.close()
            writer.close()
            await none_left(relay)
    assert {line["event"] for line in lines} == {"cannot accept connections"}


async def test_where_nothing_listens_behind_it_a_client_finds_no_daemon(folder: Path) -> None:
    """Its connection is closed, and counts no more."""
    with structlog.testing.capture_logs() as lines:
        async with relaying(folder) as relay:
            (folder / "g").unlink()
            reader, writer = await connect(folder)
            assert await reader.read() == b""
            writer.close()
            await none_left(relay)
    assert [line["event"] for line in lines] == ["cannot pass a connection on"]


def test_the_kernels_structure_is_as_we_read_it() -> None:
    """struct ucred of unix(7): process, user, group, 32 bits each."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_of(one) == ME
        raw = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert struct.unpack("iII", raw) == (ME.pid, ME.uid, ME.gid)
