"""Totals never forget, rates and quantiles know only their window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.stats import EngineStats, Meter


def read(meter: Meter, now_s: float) -> EngineStats:
    return meter.stats(
        now_s,
        queue_depth=1,
        queue_limit=2,
        running=3,
        slots=4,
        kv_used_tokens=5,
        kv_reserved_tokens=6,
        kv_warm_tokens=9,
        kv_budget_tokens=7,
        kv_bytes_per_token=8,
        draining=True,
    )


def test_nothing_has_happened_yet() -> None:
    """Rates are 0, what was never measured is None, and the engine's own numbers pass through."""
    stats = read(Meter(), 5.0)
    assert (stats.requests_total, stats.steps_total, stats.completion_tokens_per_second) == (0, 0, 0.0)
    assert stats.time_to_first_token_p50_ms is stats.time_to_first_token_p95_ms is stats.last_step_age_ms is None
    assert (stats.queue_depth, stats.queue_limit, stats.running, stats.slots) == (1, 2, 3, 4)
    assert (stats.kv_used_tokens, stats.kv_reserved_tokens) == (5, 6)
    assert (stats.kv_budget_tokens, stats.kv_bytes_per_token, stats.draining) == (7, 8, True)


def test_each_end_of_a_request_is_counted_apart() -> None:
    meter = Meter()
    for _ in range(6):
        meter.request_arrived()
    meter.finished(1.0)
    meter.finished(1.0)
    meter.cancelled()
    meter.rejected()
    meter.rejected()
    meter.rejected()
    stats = read(meter, 0.0)
    assert (stats.requests_total, stats.requests_finished_total) == (6, 2)
    assert (stats.requests_cancelled_total, stats.requests_rejected_total) == (1, 3)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 500), st.integers(0, 8)), max_size=60))
def test_totals_keep_all_and_rates_what_is_recent(steps: list[tuple[float, int, int]]) -> None:
    """Steps at any times: a rate is the tokens of the last window over its length, to within a second's steps."""
    meter, now_s, made = Meter(window_s=10), 1000.0, []
    for gap_s, prompt, completion in steps:
        now_s += gap_s
        meter.step(now_s, prompt, completion)
        made.append((now_s, prompt, completion))
    now_s += 1.5
    stats = read(meter, now_s)
    assert stats.prompt_tokens_total == sum(prompt for _, prompt, _ in made)
    assert stats.completion_tokens_total == sum(completion for _, _, completion in made)
    assert stats.steps_total == len(made)
    surely = sum(prompt for when_s, prompt, _ in made if when_s > now_s - 9)
    perhaps = sum(prompt for when_s, prompt, _ in made if when_s > now_s - 11)
    assert surely <= round(stats.prompt_tokens_per_second * 10) <= perhaps
    if made:
        assert stats.last_step_age_ms == pytest.approx(1500)


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=200))
def test_quantiles_are_values_that_enough_others_do_not_exceed(waits_s: list[float]) -> None:
    """The smallest such one: at least half, or 95 %, are at most it, and fewer are below it."""
    meter = Meter()
    for wait_s in waits_s:
        meter.first_token(1.0, wait_s)
    stats = read(meter, 2.0)
    waits_ms = [wait_s * 1e3 for wait_s in waits_s]
    for value, share in ((stats.time_to_first_token_p50_ms, 0.5), (stats.time_to_first_token_p95_ms, 0.95)):
        assert value is not None
        assert sum(wait <= value for wait in waits_ms) >= share * len(waits_ms)
        assert sum(wait < value for wait in waits_ms) < share * len(waits_ms)


def test_old_first_tokens_are_forgotten() -> None:
    """After the window there is no quantile; a day of requests takes no more memory than a minute's."""
    meter = Meter(window_s=10)
    meter.first_token(100.0, 0.5)
    assert read(meter, 109.0).time_to_first_token_p50_ms == 500
    assert read(meter, 111.0).time_to_first_token_p50_ms is None


def test_the_mean_duration_follows_recent_requests() -> None:
    """Between the old and the new, nearer to the new with every request."""
    meter = Meter()
    before = meter.mean_duration_s
    for _ in range(30):
        meter.finished(9.0)
        assert before < meter.mean_duration_s < 9.0
        before = meter.mean_duration_s
    assert before == pytest.approx(9.0, abs=0.1)


def test_a_rate_is_tokens_over_the_window() -> None:
    """Prompt and completion tokens of the last window count apart, and are gone after it."""
    meter = Meter(window_s=10)
    for at in range(5):
        meter.step(100.0 + at, prompt_tokens=20, completion_tokens=4)
    assert (read(meter, 105.0).prompt_tokens_per_second, read(meter, 105.0).completion_tokens_per_second) == (10, 2)
    assert (read(meter, 120.0).prompt_tokens_per_second, read(meter, 120.0).completion_tokens_per_second) == (0, 0)
    assert read(meter, 120.0).prompt_tokens_total == 100


def test_tokens_and_decodes_have_times_of_their_own() -> None:
    """Of a request between its tokens, of a step for one; a single token has no time between; what is old is
    forgotten."""
    meter = Meter(window_s=10)
    meter.answered(100.0, 1, 3.0)
    meter.answered(100.0, 5, 0.4)
    for at in range(20):
        meter.decoded(100.0, 0.01 * (at + 1))
    stats = read(meter, 100.0)
    assert stats.time_per_token_p50_ms == stats.time_per_token_p95_ms == pytest.approx(100.0)
    assert stats.decode_step_p50_ms == pytest.approx(100.0)
    later = read(meter, 111.0)
    assert later.time_per_token_p95_ms is later.decode_step_p50_ms is None
