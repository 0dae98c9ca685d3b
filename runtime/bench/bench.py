"""How fast an engine answers: time to first token, prefill and decode speed, for one stream and for several."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ..engine.engine import Engine
from ..engine.sequence import Event, Failed, Finished, Request
from ..errors import SessionError

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Case:
    """`streams` requests at once, each of `prompt` tokens, each generating `tokens`."""

    prompt: int
    tokens: int
    streams: int

    @property
    def name(self) -> str:
        return f"prompt {self.prompt}, {self.streams} stream{'s' if self.streams > 1 else ''}"

    def prompt_ids(self, stream: int, vocab_size: int) -> tuple[int, ...]:
        """Tokens of one stream's prompt; no two streams begin alike."""
        return tuple((stream * 7919 + position * 104_729) % vocab_size for position in range(self.prompt))


@dataclass(frozen=True)
class Rates:
    """What a run of a case gave.

    Args:
        first_token_s: seconds until every stream had its first token.
        prefill: prompt tokens/s until then.
        decode: tokens/s of all streams together, counted while all of them run, or over all if they never do.
    """

    first_token_s: float
    prefill: float
    decode: float

    @classmethod
    def of(cls, case: Case, began_s: float, streams: Sequence[Sequence[tuple[float, int]]]) -> Rates:
        """From when each stream's deltas came, and of how many tokens: from when the last has its first to when the
        first has its last."""
        first = began = max(deltas[0][0] for deltas in streams)
        last = min(deltas[-1][0] for deltas in streams)
        if last <= began:
            began, last = min(deltas[0][0] for deltas in streams), max(deltas[-1][0] for deltas in streams)
        tokens = sum(count for deltas in streams for at, count in deltas if began < at <= last)
        return cls(first - began_s, case.prompt * case.streams / (first - began_s), tokens / (last - began))


def cases_of(prompts: Sequence[int], tokens: int, streams: Sequence[int]) -> list[Case]:
    """Each prompt alone, and the shortest with each number of streams."""
    alone = [Case(prompt, tokens, 1) for prompt in prompts if 1 in streams]
    return alone + [Case(min(prompts), tokens, count) for count in streams if count > 1]


def run_case(engine: Engine, case: Case) -> Rates:
    """Runs a case on a started engine. Raises SessionError if a request fails."""
    events: queue.SimpleQueue[tuple[int, float, Event]] = queue.SimpleQueue()

    def sink_of(stream: int) -> Callable[[Event], None]:
        return lambda event: events.put((stream, time.perf_counter(), event))

    began_s = time.perf_counter()
    for stream in range(case.streams):
        prompt = case.prompt_ids(stream, engine.vocab_size)
        request = Request(prompt=prompt, max_tokens=case.tokens, ignore_eos=True)
        engine.submit(request, sink_of(stream))
    deltas: list[list[tuple[float, int]]] = [[] for _ in range(case.streams)]
    left = case.streams
    while left:
        stream, at_s, event = events.get()
        if isinstance(event, Failed):
            raise SessionError(event.message)
        if isinstance(event, Finished):
            left -= 1
        else:
            deltas[stream].append((at_s, len(event.token_ids)))
    return Rates.of(case, began_s, deltas)


def median_rates(rounds: Sequence[Rates]) -> Rates:
    """The median of each figure."""
    return Rates(
        median(each.first_token_s for each in rounds),
        median(each.prefill for each in rounds),
        median(each.decode for each in rounds),
    )


def resident_bytes() -> int:
    """What this process has in memory."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10
