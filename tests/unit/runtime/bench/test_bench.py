"""Cases on a real engine with a scripted model."""

from __future__ import annotations

import pytest
from fakes import ScriptedSession, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from runtime.bench.bench import Case, Rates, cases_of, resident_bytes, run_case
from runtime.engine.engine import Engine
from runtime.errors import SessionError


def engine_on(session: ScriptedSession) -> Engine:
    engine = Engine(
        session,
        byte_tokenizer(),
        eos_token_ids=frozenset({0}),
        queue_limit=8,
        prefill_chunk_tokens=16,
        kv_budget_tokens=4096,
    )
    engine.start()
    return engine


def test_prompts_alone_and_the_shortest_with_others() -> None:
    """A long prompt for each of many streams would take a board minutes."""
    assert cases_of([41, 656], 64, [1, 2, 8]) == [Case(41, 64, 1), Case(656, 64, 1), Case(41, 64, 2), Case(41, 64, 8)]
    assert cases_of([41], 64, [4]) == [Case(41, 64, 4)]


@given(st.integers(1, 500), st.integers(2, 60_000))
def test_streams_share_no_beginning(prompt: int, vocab_size: int) -> None:
    """So none can start from another's KV; and every token is one that there is."""
    case = Case(prompt, 8, 2)
    one, other = case.prompt_ids(0, vocab_size), case.prompt_ids(1, vocab_size)
    assert len(one) == prompt
    assert max(one) < vocab_size
    assert 7919 % vocab_size == 0 or one[0] != other[0]


def test_every_stream_of_a_case_runs() -> None:
    """Each prompt is computed, each answer has all its tokens, and the figures are of their sums."""
    session = ScriptedSession(slots=4)
    engine = engine_on(session)
    try:
        rates = run_case(engine, Case(prompt=20, tokens=12, streams=3))
        stats = engine.stats()
    finally:
        engine.stop()
    assert (stats.prompt_tokens_total, stats.completion_tokens_total) == (60, 36)
    assert rates.prefill == pytest.approx(60 / rates.first_token_s)
    assert rates.decode > 0


def test_speed_counts_while_all_streams_run() -> None:
    """From the last first token to the first last one: 1 s to 3 s here, in which five tokens came."""
    streams = [[(0.5, 1), (1.5, 1), (3.0, 2)], [(1.0, 1), (2.0, 2), (4.0, 9)]]
    assert Rates.of(Case(10, 4, 2), 0.0, streams) == Rates(first_token_s=1.0, prefill=20.0, decode=2.5)


def test_streams_that_never_run_together_count_as_a_whole() -> None:
    """On a busy machine one may end before the other has begun: 0.5 s to 4.5 s here, in which eight tokens came."""
    streams = [[(0.5, 1), (1.0, 3)], [(2.0, 1), (4.5, 4)]]
    assert Rates.of(Case(10, 4, 2), 0.0, streams) == Rates(first_token_s=2.0, prefill=10.0, decode=2.0)


def test_a_model_that_fails_is_no_figure() -> None:
    session = ScriptedSession()
    engine = engine_on(session)
    session.fail_next = "out of memory"
    try:
        with pytest.raises(SessionError, match="out of memory"):
            run_case(engine, Case(prompt=4, tokens=4, streams=1))
    finally:
        engine.stop()


def test_memory_is_counted_in_bytes() -> None:
    assert 1 << 20 < resident_bytes() < 1 << 40
