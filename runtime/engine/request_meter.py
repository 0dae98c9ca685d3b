"""What every request took, counted in histograms since the start. Pure: the caller tells the times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import DeadlineTooShort, EdgeQwenError, QueueFull, RateLimited
from .histogram import Distribution, Histogram
from .observer import Ended, Observer, Outcome
from .sequence import Request, Sequence

# From what the fastest board needs to what the slowest makes its clients wait: steps of about 2.
WAIT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
TOKEN_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
DURATION_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)
TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)

_REASONS: dict[type[EdgeQwenError], str] = {
    QueueFull: "queue_full",
    RateLimited: "rate_limited",
    DeadlineTooShort: "deadline_too_short",
}


def _reason_of(refusal: EdgeQwenError) -> str:
    """One of few words."""
    return _REASONS.get(type(refusal), "other")


@dataclass(frozen=True)
class RequestFigures:
    """One consistent reading; times in seconds.

    Args:
        queue: from arrival to the first part of the prompt.
        first_token: from arrival to the first token.
        per_token: of each request that finished, from its first token to its last, for each token after the first.
        gap: between two steps that gave a request tokens; a long one is an answer that stood still.
        durations: from arrival to the end, by how it ended.
        prompt_tokens, completion_tokens: of each request that finished.
        refused: how many the engine did not take, by reason.
        broken: how many ended because a step failed, which is no fault of theirs.
    """

    queue: Distribution
    first_token: Distribution
    per_token: Distribution
    gap: Distribution
    durations: Mapping[Outcome, Distribution]
    prompt_tokens: Distribution
    completion_tokens: Distribution
    refused: Mapping[str, int]
    broken: int


class RequestMeter:
    """Takes every observation, and tells `observer` of it. Its size does not depend on how many there are."""

    def __init__(self) -> None:
        self.observer = Observer()
        self.broken = 0
        self._queue, self._first_token = Histogram(WAIT_S), Histogram(WAIT_S)
        self._per_token, self._gap = Histogram(TOKEN_S), Histogram(TOKEN_S)
        self._durations: dict[Outcome, Histogram] = {
            outcome: Histogram(DURATION_S) for outcome in ("finished", "cancelled", "failed", "refused")
        }
        self._prompt_tokens, self._completion_tokens = Histogram(TOKENS), Histogram(TOKENS)
        self._refused = Counter(dict.fromkeys(_REASONS.values(), 0))  # a rate begins with a zero

    def arrived(self, sequence: Sequence) -> None:
        self.observer.arrived(sequence)

    def refused(self, request: Request, why: EdgeQwenError) -> None:
        """It was not let in."""
        self._refused[_reason_of(why)] += 1
        self.observer.refused(request, _reason_of(why))

    def dismissed(self, why: EdgeQwenError) -> None:
        """It had been let in, and ends without an answer."""
        self._refused[_reason_of(why)] += 1

    def started(self, queue_s: float) -> None:
        self._queue.observe(queue_s)

    def tokens_came(self, arrived_s: float, last_s: float | None, now_s: float) -> None:
        """A step gave a request tokens; `last_s` is when one did before, None if none did."""
        if last_s is None:
            self._first_token.observe(now_s - arrived_s)
        else:
            self._gap.observe(now_s - last_s)

    def ended(self, ended: Ended) -> None:
        self.observer.ended(ended)
        self._durations[ended.outcome].observe(ended.duration_s)
        if ended.outcome != "finished":
            return
        self._prompt_tokens.observe(ended.sequence.prompt_tokens)
        self._completion_tokens.observe(len(ended.sequence.output))
        if ended.per_token_s is not None:
            self._per_token.observe(ended.per_token_s)

    def read(self) -> RequestFigures:
        return RequestFigures(
            queue=self._queue.read(),
            first_token=self._first_token.read(),
            per_token=self._per_token.read(),
            gap=self._gap.read(),
            durations={outcome: histogram.read() for outcome, histogram in self._durations.items()},
            prompt_tokens=self._prompt_tokens.read(),
            completion_tokens=self._completion_tokens.read(),
            refused=dict(self._refused),
            broken=self.broken,
        )
