"""A client process of load.py: sends what it is told when it is due, over some connections, and tells what came of it.

Reads a plan from stdin, says "ready", reads the time to start at, and writes the outcomes to stdout; all as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import asdict

from load_figures import ANSWERED, Outcome, Planned

from edgeqwen.client import AsyncClient, ClientError, Delta, Options

CONNECTIONS = 4


async def ask(client: AsyncClient, planned: Planned, start_s: float) -> Outcome:
    """Waits until it is due, and never for another request."""
    await asyncio.sleep(start_s + planned.due_s - time.monotonic())
    sent_s, end = time.monotonic() - start_s, ANSWERED
    event_s: list[float] = []
    event_tokens: list[int] = []
    options = Options(max_tokens=planned.tokens, ignore_eos=True, temperature=0.0)
    try:
        async with contextlib.aclosing(client.generate(token_ids=planned.prompt, options=options)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    event_s.append(time.monotonic() - start_s)
                    event_tokens.append(len(event.token_ids))
    except ClientError as error:
        end = type(error).__name__
    return Outcome(planned.due_s, sent_s, time.monotonic() - start_s, end, tuple(event_s), tuple(event_tokens))


async def serve(target: str, planned: list[Planned]) -> list[Outcome]:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(target, scope=b"")) for _ in range(CONNECTIONS)]
        for client in clients:
            await client.health()  # connected before the first request is due
        print(json.dumps("ready"), flush=True)
        start_s = float(json.loads(sys.stdin.readline()))
        calls = (ask(clients[at % CONNECTIONS], each, start_s) for at, each in enumerate(planned))
        return await asyncio.gather(*calls)


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    planned = [Planned(each["due_s"], tuple(each["prompt"]), each["tokens"]) for each in asked["planned"]]
    outcomes = asyncio.run(serve(asked["target"], planned))
    print(json.dumps([asdict(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    main()
