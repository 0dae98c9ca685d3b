"""Requests that have not ended, and what a step of the engine computes of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..sessions.session import Logits
from .completion import Completion, Pick
from .observer import Ended, Outcome
from .sequence import Event, Finished, FinishReason, Sequence, Timings, Usage
from .speculation import Guesser

Sink = Callable[[Event], None]


class Companion(Protocol):
    """What looks after an engine while it runs."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(eq=False)
class Live:
    """A request that has not ended: its text side, where its events go, and when things happened (seconds)."""

    completion: Completion
    sink: Sink
    arrived_s: float
    guesser: Guesser | None
    started_s: float | None = None
    first_token_s: float | None = None
    last_tokens_s: float | None = None

    def ended(self, sequence: Sequence, outcome: Outcome, reason: FinishReason | None, now_s: float) -> Ended:
        """What observers are told of its end."""
        return Ended(sequence, outcome, reason, self.arrived_s, self.started_s, self.first_token_s, now_s)


@dataclass(frozen=True)
class Ready:
    """What a step computed for one sequence: logits after its last token, and after each of the tokens guessed next."""

    sequence: Sequence
    logits: Logits
    guess: tuple[int, ...] = ()


def picks_of(live: Live, row: Ready) -> list[Pick]:
    """Samples a token, and one more for as long as they are those that were guessed."""
    picks: list[Pick] = []
    for logits, guessed in itertools.zip_longest(row.logits, row.guess):
        picks.append(live.completion.pick(logits))
        if picks[-1].token != guessed or picks[-1].complete:
            break
    return picks


def finished_of(sequence: Sequence, live: Live, reason: FinishReason, now_s: float) -> Finished:
    assert live.started_s is not None
    assert live.first_token_s is not None
    prefill_s = max(live.first_token_s - live.started_s, 1e-9)
    decode_s = max(now_s - live.first_token_s, 1e-9)
    return Finished(
        reason=reason,
        usage=Usage(sequence.prompt_tokens, len(sequence.output), sequence.cached),
        timings=Timings(
            queue_ms=(live.started_s - live.arrived_s) * 1e3,
            time_to_first_token_ms=(live.first_token_s - live.arrived_s) * 1e3,
            total_ms=(now_s - live.arrived_s) * 1e3,
            prefill_tokens_per_second=(sequence.prompt_tokens - sequence.cached) / prefill_s,
            decode_tokens_per_second=(len(sequence.output) - 1) / decode_s,
        ),
        stop=live.completion.stop if reason is FinishReason.STOP else None,
    )
