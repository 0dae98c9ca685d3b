"""One request's body in, one stream of events out, and a client that may leave at any time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .answers import Json
from .failures import HttpError, TooLarge, TooSlow

T = TypeVar("T")
_SSE = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


class ClientLeft(HttpError):
    """Nobody reads the answer any more."""

    def __init__(self) -> None:
        super().__init__(499, "the client closed the connection")


async def read_body(request: Request, most_bytes: int, most_s: float) -> bytes:
    """The body, bounded in size and time. Raises TooLarge, TooSlow or ClientLeft."""
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or len(said) > 15 or int(said) > most_bytes:
        raise TooLarge(most_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(most_s):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                body += message.get("body", b"")
                if len(body) > most_bytes:
                    raise TooLarge(most_bytes)
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise TooSlow(most_s) from error
    return bytes(body)


async def until_left(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` gives; it is cancelled when the client leaves. Raises ClientLeft, or what `work` raises."""
    task, left = asyncio.ensure_future(work), asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        task.cancel()
        left.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events. Closes `chunks` however it ends."""

    def __init__(self, chunks: AsyncGenerator[Json | str, None]) -> None:
        super().__init__()
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            try:
                await until_left(receive, self._send(send))
            except (ClientLeft, OSError):
                return

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _SSE})
        async for chunk in self._chunks:
            text = chunk if isinstance(chunk, str) else encoded(chunk).decode()
            await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def encoded(value: Json) -> bytes:
    """Compact JSON, on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
