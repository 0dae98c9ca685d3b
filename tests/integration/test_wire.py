"""A real daemon and whatever may come over its socket: broken messages, broken HTTP/2, too much of everything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import psutil
import pytest
from fuzz.messages import broken, hostile
from google.protobuf.message import Message
from integration.daemons import Daemon, at_rest, start

from edgeqwen.client import Client, Options
from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import models_pb2, telemetry_pb2

pytestmark = pytest.mark.slow

CALLS, CONNECTIONS, AT_ONCE = 4000, 400, 16
MAY_GROW_BYTES = 24 << 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
METHODS: dict[str, type[Message]] = {
    "Generation/Generate": pb.GenerateRequest,
    "Generation/GenerateBatch": pb.GenerateBatchRequest,
    "Generation/Tokenize": pb.TokenizeRequest,
    "Generation/Detokenize": pb.DetokenizeRequest,
    "Models/ListModels": models_pb2.ListModelsRequest,
    "Models/LoadModel": models_pb2.LoadModelRequest,
    "Models/UnloadModel": models_pb2.UnloadModelRequest,
    "Telemetry/GetSnapshot": telemetry_pb2.GetSnapshotRequest,
}
GOOD_ENDS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED"}


@pytest.fixture(scope="module")
def daemon(small_package: Path) -> Iterator[Daemon]:
    many = ("--connections", "1024", "--connections-per-user", "1024")  # some that we closed are not noticed yet
    with start(small_package, "--no-verify", "--slots", "8", "--context-tokens", "128", *many) as daemon:
        yield daemon


def path_of(daemon: Daemon) -> str:
    return daemon.target.removeprefix("unix:")


def works(daemon: Daemon) -> None:
    """It answers, and nothing of before is left."""
    with Client(daemon.target, scope=b"") as client:
        assert client.complete("abc", options=Options(max_tokens=2, ignore_eos=True)).finished.completion_tokens == 2
        at_rest(client)


async def call(channel: grpc.aio.Channel, number: int) -> str:
    """One call with a message that may not parse; the name of the status it ends with."""
    chance = random.Random(number)
    name = chance.choices(list(METHODS), weights=(70, 5, 10, 6, 2, 3, 3, 1))[0]
    data = hostile(METHODS[name], chance).SerializeToString()
    if chance.random() < 0.3:
        data = broken(data, chance)
    timeout_s = chance.choice([None, None, None, 0.001, 0.02])
    leave_after = chance.choice([None, None, None, 0, 1, 3])
    stream = channel.unary_stream(f"/edgeqwen.v1.{name}")(data, timeout=timeout_s)
    try:
        count = 0
        async for _ in stream:
            count += 1
            if leave_after is not None and count > leave_after:
                stream.cancel()
    except grpc.aio.AioRpcError as error:
        if error.code().name not in GOOD_ENDS:
            raise AssertionError(f"call {number}: {name}") from error
        return str(error.code().name)
    except asyncio.CancelledError:
        return "CANCELLED"
    return "OK"


async def ask(daemon: Daemon, numbers: range) -> Counter[str]:
    """Many at a time, over some connections that come and go."""
    seen: Counter[str] = Counter()
    left = iter(numbers)

    async def work() -> None:
        for number in left:
            if number % 50 == 0:
                async with grpc.aio.insecure_channel(daemon.target, [("grpc.use_local_subchannel_pool", 1)]) as own:
                    seen[await call(own, number)] += 1
            else:
                seen[await call(channel, number)] += 1

    async with grpc.aio.insecure_channel(daemon.target) as channel:
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return seen


def test_thousands_of_broken_messages(daemon: Daemon) -> None:
    """Each ends with a status that tells; memory, files and threads are afterwards what they were half-way."""
    process = psutil.Process(daemon.process.pid)
    half = asyncio.run(ask(daemon, range(CALLS // 2)))
    works(daemon)
    before = (process.num_fds(), process.num_threads(), process.memory_info().rss)
    rest = asyncio.run(ask(daemon, range(CALLS // 2, CALLS)))
    works(daemon)
    after = (process.num_fds(), process.num_threads(), process.memory_info().rss)
    assert after[:2] <= (before[0] + 2, before[1] + 2)
    assert after[2] - before[2] < MAY_GROW_BYTES
    seen = half + rest
    assert min(seen["OK"], seen["INVALID_ARGUMENT"], seen["CANCELLED"]) > CALLS / 50, seen


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def garbage(chance: random.Random) -> bytes:
    """What a connection begins with: noise, another protocol, or HTTP/2 that goes wrong somewhere."""
    noise = chance.randbytes(chance.choice([0, 1, 9, 100, 5000]))
    begun = PREFACE + frame(4, 0, 0, b"")
    frames = b"".join(
        frame(chance.randrange(12), chance.randrange(256), chance.choice([0, 1, 2, 3, 2**31 - 1]), chance.randbytes(20))
        for _ in range(chance.randint(1, 30))
    )
    lies = frame(chance.randrange(10), 4, 1, noise)[:3] + b"\xff" * 6 + noise
    resets = b"".join(frame(1, 5, 2 * at + 1, b"\x82") + frame(3, 0, 2 * at + 1, b"\0\0\0\x08") for at in range(200))
    pings = frame(6, 0, 0, b"pingpong") * 500
    settings = frame(4, 0, 0, struct.pack(">HI", chance.randrange(8), chance.randrange(2**32))) * 50
    return chance.choice(
        [
            noise,
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            PREFACE,
            PREFACE[: chance.randrange(len(PREFACE))],
            PREFACE + noise,
            begun + frames,
            begun + lies,
            begun + resets,
            begun + pings,
            begun + settings,
        ]
    )


def test_connections_that_speak_no_http2(daemon: Daemon) -> None:
    """Some say nothing, some leave at once, some stay: others are answered meanwhile, and no file stays open."""
    process = psutil.Process(daemon.process.pid)
    works(daemon)
    before, rss = process.num_fds(), process.memory_info().rss
    open_ones: list[socket.socket] = []
    for number in range(CONNECTIONS):
        chance = random.Random(number)
        link = socket.socket(socket.AF_UNIX)
        link.connect(path_of(daemon))
        with contextlib.suppress(OSError):  # it may have hung up by then
            link.sendall(garbage(chance))
        if chance.random() < 0.1:
            open_ones.append(link)
        else:
            link.close()
    works(daemon)
    for link in open_ones:
        link.close()
    for _ in range(200):  # it closes its ends when it sees ours closed
        works(daemon)
        if process.num_fds() <= before + 2:
            break
    assert process.num_fds() <= before + 2
    assert process.memory_info().rss - rss < MAY_GROW_BYTES
    for line in daemon.log.read_text().splitlines():
        json.loads(line)  # libraries have nothing to say that is not in our log's form


def refusal(daemon: Daemon, data: bytes, *, method: str = "/edgeqwen.v1.Generation/Generate", **call: object) -> str:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(daemon.target, options) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(method)(data, timeout=60, **call)
    return str(error.value.code().name)


def test_too_much_is_refused(daemon: Daemon) -> None:
    """Messages and metadata over their limits, and methods that there are none of."""
    assert refusal(daemon, bytes(5 << 20)) == "RESOURCE_EXHAUSTED"
    assert refusal(daemon, b"", metadata=(("x-long", "y" * 20_000),)) == "RESOURCE_EXHAUSTED"
    many = tuple((f"x-{at}", "y" * 200) for at in range(200))
    assert refusal(daemon, b"", metadata=many) == "RESOURCE_EXHAUSTED"
    for method in ("/edgeqwen.v1.Generation/Nope", "/nope.Nope/Generate", "/", "/edgeqwen.v1.Generation"):
        assert refusal(daemon, b"", method=method) == "UNIMPLEMENTED"
    works(daemon)


def test_a_small_message_that_unpacks_to_a_large_one_takes_no_memory(daemon: Daemon) -> None:
    """However well it is compressed: it is refused before it is unpacked."""
    works(daemon)
    process = psutil.Process(daemon.process.pid)
    clear_peak = Path(f"/proc/{process.pid}/clear_refs")
    clear_peak.write_text("5")
    before = process.memory_info().rss
    assert refusal(daemon, bytes(256 << 20), compression=grpc.Compression.Gzip) == "RESOURCE_EXHAUSTED"
    works(daemon)
    peak = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line)
    assert (int(peak.split()[1]) << 10) - before < MAY_GROW_BYTES
