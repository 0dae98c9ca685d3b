"""Limits and turns from end to end: real clients, services and engine, callers of the test's choice."""

from __future__ import annotations

import os
import re
from contextvars import copy_context
from typing import Any

import pytest
from click.testing import CliRunner
from fakes import ScriptedSession
from serving import serving
from unit.runtime.fake_engine import make_reader

from edgeqwen.cli import main
from edgeqwen.client import Ask, Client, Completion, InvalidRequest, Options, RateLimited
from edgeqwen.v1 import generation_pb2 as pb
from runtime.access.caller import EVERY_ROLE, Caller, enter
from runtime.access.limits import LimitBook, Limits
from runtime.engine.sequence import Request
from runtime.errors import RequestError
from runtime.requests.reader import RequestReader

SHORT = Options(max_tokens=4, temperature=0, ignore_eos=True)


def read(reader: RequestReader, *, caller: str = "local", **fields: Any) -> tuple[Request, ...]:
    def as_caller() -> tuple[Request, ...]:
        enter(Caller(caller, EVERY_ROLE))
        return reader.samples(pb.GenerateRequest(prompt="abcdef", **fields))

    return copy_context().run(as_caller)


def reader_with(**limits: int) -> RequestReader:
    return make_reader(limits=LimitBook(clients={"local": Limits(**limits)}))


def test_a_request_is_its_callers() -> None:
    """Whoever the call came from, as the access to the daemon found out."""
    assert [each.client for each in read(make_reader(), caller="panel", n=2)] == ["panel", "panel"]


def test_an_answer_is_as_long_as_a_client_may_have() -> None:
    """What is unset takes the limit, what is more is refused with its field, and a short context counts too."""
    reader = reader_with(output_tokens=50)
    assert read(reader)[0].max_tokens == 50
    assert read(reader, max_tokens=50)[0].max_tokens == 50
    with pytest.raises(RequestError, match=r"^max_tokens: must be 1 to 50 \(got 51\)$"):
        read(reader, max_tokens=51)
    assert read(reader_with(output_tokens=10_000))[0].max_tokens == reader.context_tokens - 6


def test_a_prompt_that_is_too_long_for_its_client_is_refused() -> None:
    assert read(reader_with(prompt_tokens=6))[0].prompt
    with pytest.raises(RequestError, match=r"^input: has 6 tokens; a prompt of this client may have 5: shorten it$"):
        read(reader_with(prompt_tokens=5))


def test_more_answers_than_may_ever_run_are_refused_for_good() -> None:
    """Not with a time to try again."""
    assert len(read(reader_with(concurrent_requests=3), n=3)) == 3
    with pytest.raises(RequestError, match=r"^n: must be 1 to 3 \(got 4\)$"):
        read(reader_with(concurrent_requests=3), n=4)


def test_limits_of_others_are_no_limits() -> None:
    assert read(reader_with(output_tokens=5, prompt_tokens=1, concurrent_requests=1), caller="panel", n=2, max_tokens=9)


def test_a_client_hears_of_its_limits_and_the_status_shows_them() -> None:
    """Requests, refusals, and what it may have; field by field where a request can never work."""
    book, me = LimitBook(Limits(requests_per_minute=2, tokens_per_minute=5000, output_tokens=8)), f"uid:{os.geteuid()}"
    with serving(ScriptedSession(), book=book) as target, Client(target) as client:
        for _ in range(2):
            client.complete("abc", options=SHORT)
        with pytest.raises(RateLimited, match=f"{me} may have 2 requests a minute") as refusal:
            client.complete("abc", options=SHORT)
        assert 0 < refusal.value.retry_after_s <= 30
        with pytest.raises(InvalidRequest) as wrong:
            client.complete("abc", options=Options(max_tokens=9))
        [its] = client.snapshot().clients
        shown = CliRunner().invoke(main, ["--target", target, "status"]).stdout
    assert [field for field, _ in wrong.value.violations] == ["max_tokens"]
    assert (its.name, its.running, its.waiting, its.requests_total, its.refused_total) == (me, 0, 0, 2, 1)
    assert (its.prompt_tokens_total, its.completion_tokens_total) == (4, 8), "the second began as the first"
    assert its.limits.requests_per_minute == 2
    assert not its.limits.HasField("concurrent_requests")
    words = (
        f"{me}: 0 running, 0 wait; 2 requests, 4 + 8 tokens, 1 refused;"
        " at most 2 requests/min, 5000 tokens/min, 8 tokens an answer"
    )
    assert words in re.sub(r"\s+", " ", shown)


def test_a_batch_keeps_to_its_limits_by_waiting() -> None:
    """More requests than may run at once: all of them are answered, none is refused."""
    with (
        serving(ScriptedSession(), book=LimitBook(Limits(concurrent_requests=1))) as target,
        Client(target) as client,
    ):
        asks = [Ask(prompt="abc" * at, options=SHORT) for at in range(1, 7)]
        results = dict(client.generate_batch(asks))
    assert all(isinstance(result, Completion) for result in results.values())
    assert sorted(results) == list(range(6))
