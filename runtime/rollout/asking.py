"""Questions that the daemon puts to a model of its own, to see what it says and how fast."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..access.clients import DAEMON
from ..engine.engine import Engine
from ..engine.sequence import Event, Failed, Finished, Request, TokenLogprobs
from ..errors import SessionError, Unavailable


@dataclass(frozen=True)
class Heard:
    """A whole answer.

    Args:
        logprobs: of each token, if they were asked for.
        first_token_s: from the question on.
        tokens_per_second: after the first step that gave any; None if that gave all of them.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    first_token_s: float
    tokens_per_second: float | None


def ask(
    engine: Engine,
    prompt: Sequence[int],
    tokens: int,
    *,
    patience_s: float,
    adapter: str | None = None,
    top_logprobs: int | None = None,
) -> Heard:
    """Blocks until `engine`, which runs, has answered greedily with so many tokens, whichever they are.

    Raises SessionError for a step that fails, or if no token comes for `patience_s`; Unavailable if the engine is told
    to leave meanwhile, and QueueFull if others wait for it.
    """
    events: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()
    request = Request(tuple(prompt), tokens, ignore_eos=True, adapter=adapter, top_logprobs=top_logprobs, client=DAEMON)
    began_s = time.perf_counter()
    sequence = engine.submit(request, lambda event: events.put((time.perf_counter(), event)))
    said: list[int] = []
    logprobs: list[TokenLogprobs] = []
    came: list[tuple[float, int]] = []
    try:
        while True:
            at_s, event = events.get(timeout=patience_s)
            if isinstance(event, Failed):
                raise Unavailable(event.message) if engine.stats().draining else SessionError(event.message)
            if isinstance(event, Finished):
                return Heard(tuple(said), tuple(logprobs), came[0][0] - began_s, _rate(came))
            said += event.token_ids
            logprobs += event.logprobs
            came.append((at_s, len(event.token_ids)))
    except queue.Empty:
        raise SessionError(f"no token came for {patience_s:.0f} s") from None
    finally:
        engine.cancel(sequence)


def _rate(came: Sequence[tuple[float, int]]) -> float | None:
    seconds = came[-1][0] - came[0][0]
    return sum(count for _, count in came[1:]) / seconds if seconds > 0 else None
