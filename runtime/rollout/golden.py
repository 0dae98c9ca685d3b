"""Whether a model says what it said where it was built: the golden transcript, replayed.

Where this machine computes as the build host did, all tokens are the same. Another instruction set rounds in another
way, and where two tokens are nearly as likely it may prefer the other one. Then the transcript's token stands, and the
answer goes on from there: a near tie costs one token and not all that follow, and damaged weights show all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..engine.engine import Engine
from ..package import Golden
from .asking import ask

NEAR_TIE_NATS = 1.0
"""By how much the log-probability of the transcript's token may be below the best one's (docs/adr/0029-rollout.md)."""
MOST_TIES = 0.25
"""Of the tokens; one may always be."""
_TOLD = 8  # of the likeliest tokens: one that is not among them is no near tie


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Args:
        tokens: how many were asked for.
        said: how many of them came as they should.
        ties: how many were nearly as likely as what came.
        fault: what is wrong; empty if nothing is.
    """

    tokens: int
    said: int
    ties: int
    fault: str = ""


def replay(
    engine: Engine, golden: Golden, *, patience_s: float, tokens: int | None = None, adapter: str | None = None
) -> Replay:
    """Blocks while `engine`, which runs, answers with the transcript, or its first `tokens`. Raises as `ask` does."""
    room = engine.context_tokens - len(golden.prompt_ids)
    wanted = golden.greedy_ids[: max(0, min(room, len(golden.greedy_ids) if tokens is None else tokens))]
    at, ties = 0, 0
    while at < len(wanted):
        prompt = [*golden.prompt_ids, *wanted[:at]]
        heard = ask(engine, prompt, len(wanted) - at, patience_s=patience_s, adapter=adapter, top_logprobs=_TOLD)
        for token, told in zip(heard.tokens, heard.logprobs, strict=True):
            behind = 0.0 if token == wanted[at] else told.logprob - dict(told.top).get(wanted[at], -math.inf)
            if behind > NEAR_TIE_NATS:
                return Replay(len(wanted), at - ties, ties, f"token {at + 1} is {token} in place of {wanted[at]}")
            at += 1
            if token != wanted[at - 1]:
                ties += 1
                break
        if ties > max(1, MOST_TIES * len(wanted)):
            return Replay(len(wanted), at - ties, ties, f"{ties} of the first {at} tokens are others, if near ties")
    return Replay(len(wanted), at - ties, ties)
