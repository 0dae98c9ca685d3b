"""Who is told that it would be too late, by what lies before it in its turn."""

from __future__ import annotations

from runtime.engine.kvcache import KVCache
from runtime.engine.lateness import Lateness
from runtime.engine.pace import ENOUGH, Pace
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Request, Sequence

SPEED = 100  # tokens a second
NOW_S = 100.0


def make(slots: int = 1) -> tuple[Scheduler, Lateness]:
    scheduler = Scheduler(KVCache(slots, 100_000), queue_limit=100, prefill_chunk_tokens=64)
    pace = Pace()
    for _ in range(ENOUGH):
        pace.prefilled(NOW_S, 64 / SPEED, 64, beside=False)
    return scheduler, Lateness(scheduler, pace)


def request(tokens: int, client: str = "", scope: bytes | None = None) -> Request:
    return Request(prompt=(*range(tokens),), max_tokens=1, client=client, scope=scope)


def wait(scheduler: Scheduler, number: int, asked: Request, deadline_s: float | None = None) -> Sequence:
    sequence = Sequence(number, asked, deadline_s=deadline_s, new_tokens=scheduler.new_tokens(asked))
    scheduler.add(sequence)
    return sequence


def test_only_who_would_be_late_at_twice_the_speed_is_refused() -> None:
    _, lateness = make()
    assert lateness.of(request(1000), 5.1, NOW_S) is None
    late = lateness.of(request(1000), 4.9, NOW_S)
    assert str(late) == (
        "a first token would take about 10.0 s and the deadline is in 4.9 s;"
        " allow more time, or ask when less is waiting"
    )


def test_what_waits_before_it_counts_in_its_turn_only() -> None:
    """The many prompts of another client are no reason: only one of them comes before."""
    scheduler, lateness = make()
    for number in range(10):
        wait(scheduler, number, request(1000, "many"))
    assert lateness.of(request(1000, "many"), 50.0, NOW_S) is not None
    assert lateness.of(request(1000, "few"), 11.0, NOW_S) is None
    assert lateness.of(request(1000, "few"), 9.0, NOW_S) is not None


def test_what_is_left_of_the_prompt_in_prefill_counts() -> None:
    scheduler, lateness = make(slots=2)
    wait(scheduler, 1, request(1000))
    scheduler.schedule()
    assert lateness.of(request(1000), 9.0, NOW_S) is not None
    assert scheduler.prefilling is not None
    scheduler.prefilling.computed = 900
    assert lateness.of(request(1000), 9.0, NOW_S) is None


def test_prompts_that_begin_alike_may_be_computed_once() -> None:
    """So nobody is refused for what may be there when its turn comes."""
    scheduler, lateness = make()
    for number in range(5):
        wait(scheduler, number, request(1000, scope=b"mine"))
    assert lateness.of(request(1000, scope=b"mine"), 6.0, NOW_S) is None
    assert lateness.of(request(1000, scope=b"other"), 6.0, NOW_S) is not None


def test_those_that_wait_are_told_when_it_is_too_late() -> None:
    """The one that is, and not those behind it, for whom one less waits."""
    scheduler, lateness = make()
    first = wait(scheduler, 1, request(1000), deadline_s=106.0)
    second = wait(scheduler, 2, request(1000), deadline_s=107.0)
    wait(scheduler, 3, request(1000))
    assert lateness.among(96.0) == []
    assert [each for each, _ in lateness.among(99.0)] == [second]
    assert [each for each, _ in lateness.among(101.5)] == [first]
    assert [each for each, _ in lateness.among(103.0)] == [first, second]
