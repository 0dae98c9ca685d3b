"""Asks all boards at once how they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice

from ..client import AsyncClient
from ..errors import ClientError, DeadlineExceeded, ServerUnavailable
from .board import Board
from .finding import Finding, State, judged


async def survey(boards: Sequence[Board], *, parallel: int, timeout_s: float) -> AsyncIterator[Finding]:
    """What is found of each board, as they answer.

    `parallel` are asked at a time, each for at most `timeout_s`: a board that is slow or away holds up one place for
    that long, and no other board.
    """
    waiting = iter(boards)
    asked = {asyncio.create_task(ask(board, timeout_s)) for board in islice(waiting, parallel)}
    try:
        while asked:
            done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            asked |= {asyncio.create_task(ask(board, timeout_s)) for board in islice(waiting, len(done))}
            for task in done:
                yield task.result()
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def ask(board: Board, timeout_s: float) -> Finding:
    """What is found of a board; whatever goes wrong is the reason why no more is known."""
    try:
        async with asyncio.timeout(timeout_s), AsyncClient(board.connection) as client:
            serving, snapshot, report = await asyncio.gather(
                client.health(timeout_s=timeout_s),
                client.snapshot(timeout_s=timeout_s),
                client.health_report(timeout_s=timeout_s),
            )
    except (TimeoutError, DeadlineExceeded):
        return Finding(board, State.UNREACHABLE, f"no answer within {timeout_s:g} s")
    except ServerUnavailable as error:
        return Finding(board, State.UNREACHABLE, str(error))
    except (ClientError, ValueError) as error:  # it refuses us, is no daemon, or the files for it have gone
        return Finding(board, State.UNKNOWN, str(error))
    return judged(board, serving == "SERVING", snapshot, report)
