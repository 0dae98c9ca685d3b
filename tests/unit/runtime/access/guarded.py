"""A small gRPC server behind an `Entrance`, which says who calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from runtime.access.caller import current
from runtime.access.certificates import Certificates
from runtime.access.entrance import Entrance
from runtime.access.methods import Need
from runtime.access.rules import Rules
from runtime.api.replies import abort

OWN_UID = 4_000_000_000  # of nobody who runs tests
NEEDS: Mapping[str, Need] = {
    "/t.T/Generate": "generate",
    "/t.T/Stream": "observe",
    "/t.T/Chat": "admin",
    "/t.T/Collect": "generate",
    "/t.T/Written": "generate",
    "/t.T/Health": "anyone",
    "/t.T/Reflection": "any caller",
}


class Guarded:
    """The server. `calls` has every method whose handler ran."""

    def __init__(self, entrance: Entrance, server: grpc.aio.Server) -> None:
        self.entrance, self.server = entrance, server
        self.calls: list[str] = []

    def handlers(self) -> grpc.GenericRpcHandler:
        def name(method: str) -> bytes:
            self.calls.append(method)
            return current().name.encode()

        async def unary(request: bytes, context: Any) -> bytes:
            return name("unary")

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            for _ in range(int(request or b"2")):
                yield name("stream")

        async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield name("chat") + request

        async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
            return name("collect") + b"".join([request async for request in requests])

        async def written(request: bytes, context: Any) -> None:
            await context.write(name("written"))

        return grpc.method_handlers_generic_handler(
            "t.T",
            {
                "Generate": grpc.unary_unary_rpc_method_handler(unary),
                "Health": grpc.unary_unary_rpc_method_handler(unary),
                "Reflection": grpc.unary_unary_rpc_method_handler(unary),
                "Forgotten": grpc.unary_unary_rpc_method_handler(unary),
                "Stream": grpc.unary_stream_rpc_method_handler(stream),
                "Written": grpc.unary_stream_rpc_method_handler(written),
                "Chat": grpc.stream_stream_rpc_method_handler(chat),
                "Collect": grpc.stream_unary_rpc_method_handler(collect),
            },
        )


@asynccontextmanager
async def guarded(
    rules: Rules | None = None,
    certificates: Certificates | None = None,
    *,
    connections: int = 64,
    connections_per_user: int = 16,
    calls_per_caller: int = 1024,
    options: tuple[tuple[str, int], ...] = (),
) -> AsyncIterator[Guarded]:
    """Not yet bound: `add_port` of its entrance, then `start`."""
    entrance = Entrance(
        rules or Rules({}, {}, OWN_UID, NEEDS),
        abort,
        certificates,
        socket_group="no-such-group",
        connections=connections,
        connections_per_user=connections_per_user,
        calls_per_caller=calls_per_caller,
    )
    server = grpc.aio.server(
        interceptors=[entrance.gate], options=[("grpc.so_reuseport", 0), *dict([*entrance.options, *options]).items()]
    )
    entrance.attach(server)
    it = Guarded(entrance, server)
    server.add_generic_rpc_handlers((it.handlers(),))
    try:
        yield it
    finally:
        await server.stop(0)
        await entrance.close()


async def start(it: Guarded, listen: str) -> str:
    """Binds and starts; returns where clients find it."""
    port = it.entrance.add_port(listen)
    await it.server.start()
    it.entrance.start()
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"


async def ask(channel: grpc.aio.Channel, method: str = "Generate", **kwargs: Any) -> str:
    """Who a unary call comes from, in the server's eyes."""
    reply: bytes = await channel.unary_unary(f"/t.T/{method}")(b"", **kwargs)
    return reply.decode()
