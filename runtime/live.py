"""A request that has not ended, as the engine has it: its text side, where its events go, and when things happened."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from .completion import Completion, Pick
from .observer import Ended, Outcome
from .sequence import Event, Finished, FinishReason, Sequence, Timings, Usage
from .session import Logits
from .speculation import Guesser

Sink = Callable[[Event], None]


@dataclass(eq=False)
class Live:
    """What there is of it beside its `Sequence`; times in seconds on the engine's clock."""

    completion: Completion
    sink: Sink
    arrived_s: float
    guesser: Guesser | None
    started_s: float | None = None
    first_token_s: float | None = None
    last_tokens_s: float = 0.0

    def picks(self, rows: Logits, guess: tuple[int, ...]) -> list[Pick]:
        """Samples a token, and one more for as long as they are those that were guessed."""
        picks: list[Pick] = []
        for logits, guessed in itertools.zip_longest(rows, guess):
            picks.append(self.completion.pick(logits))
            if picks[-1].token != guessed or picks[-1].complete:
                break
        return picks

    def ended(self, sequence: Sequence, outcome: Outcome, reason: FinishReason | None, now_s: float) -> Ended:
        """What observers are told of its end."""
        return Ended(sequence, outcome, reason, self.arrived_s, self.started_s, self.first_token_s, now_s)

    def finished(self, sequence: Sequence, reason: FinishReason, now_s: float) -> Finished:
        """Its last event."""
        assert self.started_s is not None
        assert self.first_token_s is not None
        prefill_s = max(self.first_token_s - self.started_s, 1e-9)
        decode_s = max(now_s - self.first_token_s, 1e-9)
        return Finished(
            reason=reason,
            usage=Usage(sequence.prompt_tokens, len(sequence.output), sequence.cached),
            timings=Timings(
                queue_ms=(self.started_s - self.arrived_s) * 1e3,
                time_to_first_token_ms=(self.first_token_s - self.arrived_s) * 1e3,
                total_ms=(now_s - self.arrived_s) * 1e3,
                prefill_tokens_per_second=(sequence.prompt_tokens - sequence.cached) / prefill_s,
                decode_tokens_per_second=(len(sequence.output) - 1) / decode_s,
            ),
            stop=self.completion.stop if reason is FinishReason.STOP else None,
        )
