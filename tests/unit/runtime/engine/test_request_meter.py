"""What the engine tells of each of its requests: to its histograms, and to whoever observes it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from fakes import ScriptedSession, byte_tokenizer

from runtime.engine.engine import Engine
from runtime.engine.observer import Ended, Observer
from runtime.engine.sequence import FinishReason, Request, Sequence
from runtime.errors import QueueFull


@dataclass
class Clock:
    """Tells the time that it is told."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Listener(Observer):
    arrivals: list[Sequence] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)

    def arrived(self, sequence: Sequence) -> None:
        self.arrivals.append(sequence)

    def refused(self, request: Request, reason: str) -> None:
        self.refusals.append(reason)

    def ended(self, ended: Ended) -> None:
        self.ends.append(ended)


@dataclass
class Bench:
    """An engine that is not started, of which every step takes a second."""

    clock: Clock = field(default_factory=Clock)
    session: ScriptedSession = field(default_factory=lambda: ScriptedSession(slots=1))
    listener: Listener = field(default_factory=Listener)
    queue_limit: int = 1

    def __post_init__(self) -> None:
        self.engine = Engine(
            self.session,
            byte_tokenizer(),
            eos_token_ids=frozenset({0}),
            queue_limit=self.queue_limit,
            prefill_chunk_tokens=8,
            kv_budget_tokens=1000,
            speculate=False,
            clock=self.clock,
        )
        self.engine.observe(self.listener)
        self.session.during_run = self._a_second

    def _a_second(self) -> None:
        self.clock.now_s += 1.0

    def submit(self, max_tokens: int = 4, client: str = "", timeout_s: float | None = None) -> Sequence:
        request = Request((1, 2, 3), max_tokens, ignore_eos=True, client=client)
        return self.engine.submit(request, lambda event: None, timeout_s=timeout_s)

    def rest(self) -> None:
        while not self.engine.idle:
            self.engine.step()


def test_a_request_that_finishes_is_in_every_histogram() -> None:
    """It waited 2 s, then took a second to its first token, and one for each of the three others."""
    bench = Bench()
    sequence = bench.submit()
    bench.clock.now_s += 2.0
    bench.rest()
    figures = bench.engine.figures()
    assert (figures.queue.total, figures.first_token.total) == (2.0, 3.0)
    assert (figures.per_token.total, figures.per_token.count) == (1.0, 1)
    assert (figures.gap.total, figures.gap.count) == (3.0, 3)
    assert {outcome: its.count for outcome, its in figures.durations.items()} == {
        "finished": 1,
        "cancelled": 0,
        "failed": 0,
        "refused": 0,
    }
    assert figures.durations["finished"].total == 6.0
    assert (figures.prompt_tokens.total, figures.completion_tokens.total) == (3.0, 4.0)
    (ended,) = bench.listener.ends
    assert bench.listener.arrivals == [sequence]
    assert ended == Ended(sequence, "finished", FinishReason.LENGTH, 100.0, 102.0, 103.0, 106.0)


def test_a_single_token_has_no_time_per_token() -> None:
    """There is nothing to divide by."""
    bench = Bench()
    bench.submit(max_tokens=1)
    bench.rest()
    assert (bench.engine.figures().per_token.count, bench.engine.figures().durations["finished"].count) == (0, 1)


def test_a_request_that_is_cancelled_in_the_queue_never_started() -> None:
    """Its duration is known; of tokens and of waiting for a slot there is nothing to tell. Twice is once."""
    bench = Bench()
    sequence = bench.submit()
    bench.clock.now_s += 0.5
    bench.engine.cancel(sequence)
    bench.engine.cancel(sequence)
    figures = bench.engine.figures()
    assert (figures.durations["cancelled"].total, figures.durations["cancelled"].count) == (0.5, 1)
    assert (figures.queue.count, figures.first_token.count, figures.prompt_tokens.count) == (0, 0, 0)
    (ended,) = bench.listener.ends
    assert (ended.outcome, ended.started_s, ended.first_token_s) == ("cancelled", None, None)


def test_what_a_failed_step_ends_is_failed() -> None:
    """All that ran or waited."""
    bench = Bench()
    bench.submit()
    bench.submit()
    bench.engine.step()
    bench.engine.stop("the test is over")
    assert bench.engine.figures().durations["failed"].count == 2
    assert [ended.outcome for ended in bench.listener.ends] == ["failed", "failed"]


def test_a_refusal_is_counted_with_its_reason() -> None:
    """It never was a request of the engine."""
    bench = Bench()
    bench.submit()
    bench.submit()
    with pytest.raises(QueueFull):
        bench.submit()
    assert bench.engine.figures().refused == {"queue_full": 1, "rate_limited": 0, "deadline_too_short": 0}
    assert (bench.listener.refusals, len(bench.listener.arrivals)) == (["queue_full"], 2)


def test_who_has_to_leave_the_queue_is_refused_too() -> None:
    """It arrived and it ended: with the duration of its wait, and with the reason."""
    bench = Bench(queue_limit=2)
    bench.submit(client="greedy")
    bench.engine.step()
    bench.submit(client="greedy")
    left = bench.submit(client="greedy")
    bench.clock.now_s += 2.0
    bench.submit(client="other")
    figures = bench.engine.figures()
    assert (figures.durations["refused"].count, figures.durations["refused"].total) == (1, 2.0)
    assert figures.refused["queue_full"] == 1
    [ended] = bench.listener.ends
    assert (ended.sequence, ended.outcome) == (left, "refused")
    assert bench.listener.refusals == []
