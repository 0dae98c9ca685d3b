"""What it costs to know who calls: gRPC as it is, against the daemon's unix socket, TLS and roles.

    python benchmarks/callers.py                 # three minutes
    python benchmarks/callers.py --rounds 1

A server in a process of its own answers with the bytes of a short delta and does nothing else, so that all of its
time is gRPC's and ours. Three figures each, medians over the rounds, in which the ways take turns: the round trip of
a unary call; the server's processor time for a message where 8 streams get one every 10 ms, as from a model that
decodes; and where 8 streams get as many as go through.

`bare` is gRPC's own unix socket, and `bare tcp` its port, without roles; `relay` is the daemon's unix socket; `tls`
is with client certificates, and with tokens there are 20.
"""

from __future__ import annotations

import argparse
import asyncio
import grp
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import psutil

WAYS = ("bare", "relay", "bare tcp", "tcp", "tls", "tls and token")
STREAMS = 8
MESSAGE = bytes(60)
CALLS, PACED, FLOOD = 1000, 300, 4000
GAP_S = 0.01
TOKEN = "eqt_" + "a" * 43


async def serve(way: str, folder: Path) -> None:
    """Prints where it listens, and serves until it is ended."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from certificates import Authority

    from runtime.access.certificates import Certificates, Files
    from runtime.access.entrance import Entrance
    from runtime.access.rules import Rules
    from runtime.access.tokens import digest_of
    from runtime.api.replies import abort

    async def unary(request: bytes, context: object) -> bytes:
        return MESSAGE

    async def stream(request: bytes, context: object) -> AsyncIterator[bytes]:
        count, gap_s = request.decode().split()
        for _ in range(int(count)):
            if float(gap_s):
                await asyncio.sleep(float(gap_s))
            yield MESSAGE

    sys.setswitchinterval(0.0005)  # as the daemon has it
    certificates = None
    if way.startswith("tls"):
        authority = Authority(folder)
        server_files = authority.server()
        authority.issue("client")
        ca = None if "token" in way else authority.file
        certificates = Certificates(Files(server_files.certificate, server_files.key, ca))
    tokens = {f"client{number}": digest_of(f"{TOKEN}{number}") for number in range(20)} if "token" in way else {}
    rules = Rules(tokens, {}, os.geteuid(), {"/b.B/Unary": "generate", "/b.B/Stream": "generate"})
    entrance = Entrance(
        rules,
        abort,
        certificates,
        socket_group=grp.getgrgid(os.getegid()).gr_name,
        connections=64,
        connections_per_user=64,
    )
    gates = [] if "bare" in way else [entrance.gate]
    server = grpc.aio.server(interceptors=gates)
    entrance.attach(server)
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("b.B", methods),))
    if way == "bare":
        target = f"unix:{folder}/s"
        server.add_insecure_port(target)
    elif way == "relay":
        target = f"unix:{folder}/s"
        entrance.add_port(target)
    else:
        target = f"127.0.0.1:{entrance.add_port('127.0.0.1:0')}"
    await server.start()
    entrance.start()
    print(target, flush=True)
    await server.wait_for_termination()


Shown = dict[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Cost:
    """In microseconds."""

    call: float
    paced: float
    flood: float


@asynccontextmanager
async def server_of(way: str) -> AsyncIterator[tuple[grpc.aio.Channel, psutil.Process, Shown]]:
    """A channel to a new server, its process, and what each call has to show."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as name:
        folder = Path(name)
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--serve", way, "--folder", name, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        target = (await process.stdout.readline()).decode().strip()
        if way.startswith("tls"):
            files = [folder / "ca.pem"] + ([] if "token" in way else [folder / "client.key", folder / "client.pem"])
            credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
            channel = grpc.aio.secure_channel(target, credentials)
        else:
            channel = grpc.aio.insecure_channel(target)
        try:
            async with channel:
                shown = {"metadata": (("authorization", f"Bearer {TOKEN}7"),)} if "token" in way else {}
                yield channel, psutil.Process(process.pid), shown
        finally:
            process.terminate()
            await process.wait()


async def measure(way: str) -> Cost:
    """One round."""
    async with server_of(way) as (channel, process, shown):
        unary, stream = channel.unary_unary("/b.B/Unary"), channel.unary_stream("/b.B/Stream")

        async def take(count: int, gap_s: float) -> None:
            async for _ in stream(f"{count} {gap_s}".encode(), **shown):
                pass

        async def processor_us(count: int, gap_s: float) -> float:
            before = sum(process.cpu_times()[:2])
            await asyncio.gather(*(take(count, gap_s) for _ in range(STREAMS)))
            return (sum(process.cpu_times()[:2]) - before) / (STREAMS * count) * 1e6

        for _ in range(CALLS // 5):
            await unary(b"", **shown)
        start = time.perf_counter()
        for _ in range(CALLS):
            await unary(b"", **shown)
        call = (time.perf_counter() - start) / CALLS * 1e6
        return Cost(call, await processor_us(PACED, GAP_S), await processor_us(FLOOD, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.folder))
        return
    from machine import machine

    seen: dict[str, list[Cost]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            seen[way].append(asyncio.run(measure(way)))
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.rounds} rounds\n")
    print("| way | unary call, us | processor for a paced message, us | for one of a flood, us |")
    print("|---|---|---|---|")
    for way, costs in seen.items():
        cells = (statistics.median(getattr(cost, name) for cost in costs) for name in ("call", "paced", "flood"))
        print(f"| {way} | {' | '.join(f'{cell:.0f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
