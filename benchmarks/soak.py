"""Hours of use in minutes: short requests with random lengths, cancels and deadlines, whose answers are all known; one
by one, as samples of one prompt, and in batches.

    python benchmarks/soak.py --minutes 5          # the reference checkpoint at float32, built if it is not there

Greedy answers of a float32 package depend neither on who else is in the batch nor on what a prompt starts from. So
every answer, whole or cut short, must be the beginning of what the same prompt gets alone; anything else is a mix-up.
Half of the clients share a scope each with themselves, a quarter one with each other, a quarter nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator

from engines import daemon
from machine import machine
from packages import reference_package

from edgeqwen.client import (
    Ask,
    AsyncClient,
    Client,
    Completion,
    DeadlineExceeded,
    Delta,
    Options,
    QueueFull,
)

CLIENTS, TOKENS, LONGEST_DEADLINE_S = 12, 24, 0.4
SYSTEM = "You are the help of a pump. Answer in one short sentence, without greeting, and say what to check first. "
QUESTIONS = ("Why does it vibrate?", "Why is it hot?", "It leaks.", "How often is it oiled?", "Hi", "List its parts.")
FOLLOW_UPS = ("Why?", "And then?", "Say that in other words, for somebody who has never seen a pump.")

Turns = tuple[tuple[str, str], ...]


def known_answers(target: str) -> dict[Turns, str]:
    """Conversations of one and two turns, with and without the system prompt, and what each gets alone."""
    known: dict[Turns, str] = {}
    with Client(target, scope=b"") as client:
        for question, before in itertools.product(QUESTIONS, ((), (("system", SYSTEM * 2),))):
            first: Turns = (*before, ("user", question))
            known[first] = _greedy(client, first)
            for follow_up in FOLLOW_UPS:
                second: Turns = (*first, ("assistant", known[first]), ("user", follow_up))
                known[second] = _greedy(client, second)
    return known


def _greedy(client: Client, turns: Turns) -> str:
    return client.chat(turns, options=Options(temperature=0.0, max_tokens=TOKENS)).text


async def use(target: str, known: dict[Turns, str], scope: bytes | None, until: float, seed: int) -> Counter[str]:
    """One client, until then; what came of its requests."""
    chance, seen = random.Random(seed), Counter[str]()
    async with AsyncClient(target, scope=scope) as client:
        while time.monotonic() < until:
            asked = chance.choices(list(known), k=chance.choice([1, 1, 1, chance.randint(2, 6)]))
            leave_after = chance.choice([None, None, chance.randint(0, 6)])
            timeout_s = chance.choice([None, None, None, chance.uniform(0.005, LONGEST_DEADLINE_S)])
            options = Options(
                temperature=0.0,
                max_tokens=chance.randint(1, TOKENS),
                n=chance.choice([1, 1, 1, 3]),
                deterministic=chance.choice([None, None, True]),
            )
            texts: Texts = {}
            try:
                end = await _listen(_pieces(client, asked, options, timeout_s), leave_after, texts)
                if len(asked) > 1:
                    end = f"batch {end}"
            except DeadlineExceeded:
                end = "too late"
            except QueueFull:
                end = "refused"
            seen[end] += 1
            seen["wrong"] += sum(not known[asked[at]].startswith(text) for (at, _), text in texts.items())
    return seen


Place = tuple[int, int]
"""The number of a request in its call, and of a sample of it."""
Texts = dict[Place, str]


async def _pieces(
    client: AsyncClient, asked: list[Turns], options: Options, timeout_s: float | None
) -> AsyncGenerator[tuple[Place, str] | None, None]:
    """What comes of one request, as it is streamed, or of several in a batch, whole; None for other events."""
    if len(asked) == 1:
        async with contextlib.aclosing(client.generate(messages=asked[0], options=options, timeout_s=timeout_s)) as its:
            async for event in its:
                yield ((0, event.index), event.text) if isinstance(event, Delta) else None
        return
    asks = [Ask(turns, options=options) for turns in asked]
    async with contextlib.aclosing(client.generate_batch(asks, timeout_s=timeout_s)) as results:
        async for at, result in results:
            assert isinstance(result, Completion), result
            yield (at, result.finished.index), result.text


async def _listen(pieces: AsyncGenerator[tuple[Place, str] | None, None], leave_after: int | None, texts: Texts) -> str:
    """Collects pieces, so many at most; how it ended."""
    count = 0
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            if count == leave_after:
                return "left"
            if piece:
                place, text = piece
                texts[place] = texts.get(place, "") + text
                count += 1
    return "ended"


async def watch(target: str, every_s: float, until: float) -> list[float]:
    """Resident memory in MB without what is kept of earlier prompts, from time to time."""
    readings = []
    async with AsyncClient(target) as client:
        while time.monotonic() < until:
            await asyncio.sleep(every_s)
            snapshot = await client.snapshot()
            engine = snapshot.models[0].engine
            kv = (engine.kv_warm_tokens + engine.kv_used_tokens) * engine.kv_bytes_per_token
            readings.append((snapshot.process.rss_bytes - kv) / 1e6)
    return readings


async def soak(target: str, known: dict[Turns, str], minutes: float) -> tuple[Counter[str], list[float]]:
    until, shared = time.monotonic() + 60 * minutes, secrets.token_bytes(16)
    scopes = itertools.cycle([None, shared, None, b""])
    clients = [use(target, known, next(scopes), until, seed) for seed in range(CLIENTS)]
    readings, *seen = await asyncio.gather(watch(target, 1.5 * minutes, until), *clients)
    return sum(seen, Counter[str]()), readings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with daemon(reference_package("float32"), options.threads) as served:
        known = known_answers(served.target)
        seen, readings = asyncio.run(soak(served.target, known, options.minutes))
        with Client(served.target) as client:
            while (snapshot := client.snapshot()).models[0].engine.running:
                pass
    engine = snapshot.models[0].engine
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.threads} threads, {options.minutes:g} minutes\n")
    wrong = seen.pop("wrong", 0)
    ends = ", ".join(f"{count} {end}" for end, count in sorted(seen.items()))
    print(f"{seen.total()} requests: {ends}; {wrong} wrong")
    print(f"prompt tokens: {engine.prompt_tokens_total} computed, {engine.cached_prompt_tokens_total} cached")
    print(f"memory without KV: {' '.join(f'{mb:.0f}' for mb in readings)} MB")
    print(f"at the end {engine.kv_reserved_tokens} tokens are promised, {engine.kv_warm_tokens} warm")
    if wrong or engine.kv_reserved_tokens:
        sys.exit(1)


if __name__ == "__main__":
    main()
