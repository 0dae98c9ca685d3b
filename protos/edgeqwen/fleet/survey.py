"""Asks all boards at once how they are."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from itertools import islice

from ..client import AsyncClient
from ..errors import ClientError, DeadlineExceeded, ServerUnavailable
from .board import Board
from .finding import Finding, State, judged

_FILES_EACH, _FILES_BESIDE = 4, 64
"""Descriptors: of a board that is asked, its connection and what finds its address; of all else in this process."""


def room_for(boards: int) -> int:
    """How many of so many boards can be asked at a time: each needs files, whose limit is raised as far as it may be.

    Without them, gRPC would say that nobody listens.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = boards * _FILES_EACH + _FILES_BESIDE
    wanted = needed if most == resource.RLIM_INFINITY else min(needed, most)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            limit = wanted
    return boards if limit == resource.RLIM_INFINITY else max(1, min(boards, (limit - _FILES_BESIDE) // _FILES_EACH))


async def survey(boards: Sequence[Board], *, parallel: int, timeout_s: float) -> AsyncIterator[Finding]:
    """What is found of each board, as they answer.

    `parallel` are asked at a time, each for at most `timeout_s`: a board that is slow or away holds up one place for
    that long, and no other board. Fewer are where the limit on open files has no room for so many.
    """
    waiting = iter(boards)
    parallel = room_for(min(parallel, len(boards)))
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
    except Exception as error:  # whatever else a board can make of us, the others are still to be seen
        return Finding(board, State.UNKNOWN, f"{type(error).__name__}: {error}")
    return judged(board, serving == "SERVING", snapshot, report)
