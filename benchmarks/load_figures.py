"""Requests that come whether or not earlier ones have ended, and what is made of their times. Pure."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PROMPTS, ANSWERS = (16, 64, 64, 256), (8, 32, 32, 64)
"""Lengths in tokens, each as likely as it stands here."""
GOOD_FIRST_S, GOOD_TOKEN_S = 2.0, 0.1
"""An answer is good whose first token comes that soon, and each further one in that time on average."""
ANSWERED = "answered"


@dataclass(frozen=True)
class Planned:
    """A request that comes at `due_s` after the start, whatever has become of those before."""

    due_s: float
    prompt: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class Outcome:
    """What became of it; times in seconds after the start. `end` is "answered", or the name of what was raised.

    `event_s` and `event_tokens` are of each message with tokens. The times count from `due_s`, not from `sent_s`: a
    client that is late in sending waits too (what leaves that out is called coordinated omission).
    """

    due_s: float
    sent_s: float
    end_s: float
    end: str
    event_s: tuple[float, ...] = ()
    event_tokens: tuple[int, ...] = ()

    @property
    def answered(self) -> bool:
        return self.end == ANSWERED

    @property
    def first_s(self) -> float:
        return self.event_s[0] - self.due_s

    @property
    def token_s(self) -> float:
        """Of each token after the first message, on average; 0 if there is none."""
        return (self.event_s[-1] - self.event_s[0]) / max(1, sum(self.event_tokens[1:]))

    @property
    def good(self) -> bool:
        return self.answered and self.first_s <= GOOD_FIRST_S and self.token_s <= GOOD_TOKEN_S


@dataclass(frozen=True)
class Sample:
    """What the daemon says of itself from time to time."""

    queued: int
    running: int
    cpu_cores: float
    rss_mb: float


def plan(rate: float, seconds: float, seed: int) -> list[Planned]:
    """Arrivals of a Poisson process with `rate` a second; no prompt begins as another."""
    chance = random.Random(seed)
    due_s, planned = chance.expovariate(rate), []
    while due_s < seconds:
        prompt = tuple(chance.randrange(100, 1000) for _ in range(chance.choice(PROMPTS)))
        planned.append(Planned(due_s, prompt, chance.choice(ANSWERS)))
        due_s += chance.expovariate(rate)
    return planned


def figures(rate: float, seconds: float, outcomes: Sequence[Outcome], samples: Sequence[Sample]) -> dict[str, Any]:
    """Of one level of load: rates a second, times in milliseconds."""
    answered = [each for each in outcomes if each.answered]
    refused = [each for each in outcomes if not each.answered]
    span_s = max(seconds, _last(answered))  # those that still waited are answered after the last has come
    gaps = [gap for each in answered for gap in _gaps(each)]
    return {
        "offered": rate,
        "arrived": len(outcomes),
        "answered": len(answered) / span_s,
        "good": sum(each.good for each in outcomes) / span_s,
        "tokens": sum(sum(each.event_tokens) for each in answered) / span_s,
        "first_ms": quantiles([each.first_s for each in answered]),
        "token_ms": quantiles(gaps),
        "refused": dict(Counter(each.end for each in refused)),
        "refused_ms": quantiles([each.end_s - each.due_s for each in refused]),
        "sent_late_ms": quantiles([each.sent_s - each.due_s for each in outcomes]),
        "queued_mean": statistics.fmean(each.queued for each in samples),
        "queued_most": max(each.queued for each in samples),
        "running_mean": statistics.fmean(each.running for each in samples),
        "cpu_cores": statistics.fmean(each.cpu_cores for each in samples),
        "rss_mb": max(each.rss_mb for each in samples),
        "samples": [asdict(each) for each in samples],
    }


def quantiles(seconds: Iterable[float]) -> dict[str, float] | None:
    """p50, p95 and p99 in milliseconds: the smallest values that at least so many do not exceed; None of nothing."""
    ordered = sorted(seconds)
    if not ordered:
        return None
    return {f"p{share}": 1e3 * ordered[math.ceil(share / 100 * len(ordered)) - 1] for share in (50, 95, 99)}


def _gaps(outcome: Outcome) -> Iterable[float]:
    """The time of each token after the first message; those of one message share its gap."""
    for before_s, at_s, tokens in zip(outcome.event_s, outcome.event_s[1:], outcome.event_tokens[1:], strict=False):
        yield from [(at_s - before_s) / tokens] * tokens


def _last(answered: Sequence[Outcome]) -> float:
    return max((each.end_s for each in answered), default=0.0)
