"""The OpenAI API in this process, asked by bodies that nobody should send."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from fuzz.bodies import CHAT, COMPLETIONS, hostile
from fuzz.process import Ear, Held
from starlette.types import ASGIApp, Message

from runtime.api.generator import Generator
from runtime.engine.engine import Engine
from runtime.http.app import make_app
from runtime.models.registry import Models

REQUESTS = 10_000
WORKERS = 16
MOST_BYTES = 100_000
MAY_GROW_BYTES = 2 << 20
STATUSES = {200, 400, 404, 413, 429}


class Exchange:
    """A client's end of one request: it sends the body in parts, and leaves after so many messages if it is told to."""

    def __init__(self, path: str, body: bytes, chance: random.Random) -> None:
        self.status = 0
        self.received = b""
        self._parts = [body[: len(body) // 2], body[len(body) // 2 :]]
        self._leaves_after = chance.choice([None, None, None, None, 1, 2, 3])
        self._left = asyncio.Event()
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ],
            "client": None,
            "server": ("localhost", 80),
            "state": {},
        }

    @property
    def left(self) -> bool:
        return self._left.is_set()

    async def run(self, app: ASGIApp) -> None:
        await app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.received += message["body"]
        if self._leaves_after is not None:
            self._leaves_after -= 1
            if self._leaves_after <= 0:
                self._left.set()


def check(exchange: Exchange, body: bytes) -> str:
    """What came of it. Fails if it is neither an answer nor a refusal as it should be."""
    if exchange.left:
        return "left"
    said = exchange.received.decode()
    assert exchange.status in STATUSES, f"{exchange.status} {said}: {body[:2000]!r}"
    if exchange.status == 200:
        return "streamed" if said.startswith("data: ") else "answered"
    error: dict[str, Any] = json.loads(said)["error"]
    assert error["message"], body[:2000]
    assert set(error) == {"message", "type", "param", "code"}
    return str(exchange.status)


@pytest.mark.slow
async def test_nothing_breaks_leaks_or_stays_over_http(engine: Engine, models: Models, ear: Ear) -> None:
    """Each is answered, or refused with OpenAI's error; nothing of it is kept or logged, and no slot is lost."""
    app = make_app(models, Generator(models), lambda connection, path: None, max_body_bytes=MOST_BYTES)
    seen: Counter[str] = Counter()
    numbers = itertools.count()

    async def work(until: int) -> None:
        while (number := next(numbers)) < until:
            chance = random.Random(number)
            path = chance.choice([CHAT, CHAT, COMPLETIONS])
            body = hostile(path, chance)
            exchange = Exchange(path, body, chance)
            await exchange.run(app)
            seen[check(exchange, body)] += 1

    held: list[Held] = []
    for until in range(REQUESTS // 5, REQUESTS + 1, REQUESTS // 5):
        await asyncio.gather(*(work(until) for _ in range(WORKERS)))
        assert await asyncio.to_thread(engine.wait_idle, 20)
        assert engine.stats().kv_reserved_tokens == 0
        numbers = itertools.count(until)
        held.append(Held.now())
    assert len({(each.files, each.threads, each.tasks) for each in held[1:]}) == 1, held
    grown = [after.rss_bytes - before.rss_bytes for before, after in pairwise(held[1:])]
    assert min(grown) < MAY_GROW_BYTES, held  # a leak grows each time, what libraries keep once does not
    assert ear.told == []
    assert min(seen[what] for what in ("answered", "streamed", "left", "400")) > REQUESTS / 50, seen
