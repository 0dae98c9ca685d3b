"""Refused for now, and asked again: as often as was said, when the daemon says, and never past the timeout."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator

import grpc
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from unit.edgeqwen.scripted_server import Answer, fail, refuse, say, scripted

from edgeqwen.cli import main
from edgeqwen.client import AsyncClient, Client, Completion, DeadlineExceeded, QueueFull, RateLimited, TryAgain
from edgeqwen.retrying import Tries
from edgeqwen.v1 import generation_pb2 as pb
from runtime import errors


def ask(target: str, retries: int, timeout_s: float | None = None) -> Completion:
    with Client(target, retries=retries) as client:
        return client.chat(iter([("user", "a")]), timeout_s=timeout_s)


def ask_async(target: str, retries: int, timeout_s: float | None = None) -> Completion:
    async def run() -> Completion:
        async with AsyncClient(target, retries=retries) as client:
            return await client.chat(iter([("user", "a")]), timeout_s=timeout_s)

    return asyncio.run(run())


Ask = Callable[..., Completion]
both = pytest.mark.parametrize("ask", [ask, ask_async])
FULL = errors.QueueFull(3, 0.002, "panel")
LIMITED = errors.RateLimited("panel", "requests_per_minute", 9, 0.002)


class Turns:
    """Answers one after the other, the last one again and again; `asked` counts."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = answers
        self.asked = 0

    def __call__(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        assert [message.content for message in request.chat.messages] == ["a"]
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        return answer(request, context)


@both
def test_a_request_is_sent_again_until_it_is_let_in(ask: Ask) -> None:
    """Whole, also if its messages can be gone through only once, and whatever it was refused for."""
    turns = Turns(refuse(FULL), refuse(LIMITED), refuse(FULL, started=True), say("b"))
    with scripted(turns) as target:
        assert ask(target, retries=3).text == "b"
    assert turns.asked == 4


@both
@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (2, 3)])
def test_it_is_not_sent_more_often_than_was_said(ask: Ask, retries: int, asked: int) -> None:
    """Nor at all without being told to."""
    turns = Turns(refuse(FULL))
    with scripted(turns) as target, pytest.raises(QueueFull, match="3 requests wait") as refusal:
        ask(target, retries=retries)
    assert turns.asked == asked
    assert refusal.value.retry_after_s == 0.002


@both
def test_nobody_waits_for_what_would_come_too_late(ask: Ask) -> None:
    """The refusal is told at once."""
    turns = Turns(refuse(errors.QueueFull(3, 600.0)))
    with scripted(turns) as target, pytest.raises(QueueFull):
        ask(target, retries=9, timeout_s=30.0)
    assert turns.asked == 1


@both
def test_an_answer_that_has_begun_is_not_asked_for_again(ask: Ask) -> None:
    turns = Turns(fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "so it is", "half an ans"))
    with scripted(turns) as target, pytest.raises(QueueFull):
        ask(target, retries=9)
    assert turns.asked == 1


@both
def test_a_client_hears_which_limit_it_was(ask: Ask) -> None:
    with scripted(refuse(LIMITED)) as target, pytest.raises(RateLimited, match="may have 9 requests a minute") as error:
        ask(target, retries=0)
    assert (error.value.limit, error.value.retry_after_s) == ("requests_per_minute", 0.002)


@both
def test_a_daemon_that_knows_it_is_too_late_says_why(ask: Ask) -> None:
    """Where the client's own clock tells, nobody else does."""
    late = errors.DeadlineTooShort(9.0, 2.0)
    with scripted(refuse(late)) as target, pytest.raises(DeadlineExceeded) as error:
        ask(target, retries=9)
    assert str(error.value) == str(late)


@given(
    st.lists(st.floats(0.001, 30), min_size=1, max_size=20),
    st.integers(0, 9),
    st.none() | st.floats(0.1, 60),
    st.floats(0, 1),
)
def test_every_wait_is_as_long_as_told_and_ends_in_time(
    told_s: list[float], retries: int, timeout_s: float | None, chance: float
) -> None:
    """No earlier than the daemon says, at most half as long again, and all of it before the timeout."""
    now_s, waited = 0.0, 0
    tries = Tries(retries, timeout_s, clock=lambda: now_s, chance=lambda: chance)
    for retry_after_s in told_s:
        try:
            wait_s = tries.wait_s(TryAgain("no", retry_after_s))
        except TryAgain:
            break
        assert retry_after_s <= wait_s <= retry_after_s * 1.5
        now_s += wait_s
        waited += 1
        assert timeout_s is None or now_s <= timeout_s
    assert waited <= retries


def test_clients_that_were_refused_together_come_back_apart() -> None:
    chances = itertools.cycle((0.0, 0.5, 1.0))
    waits = {Tries(1, None, chance=lambda: next(chances)).wait_s(TryAgain("no", 10.0)) for _ in range(3)}
    assert waits == {10.0, 12.5, 15.0}


def test_the_command_tries_again_where_it_is_told_to() -> None:
    """Else it ends with the status that scripts know: try again."""
    turns = Turns(refuse(LIMITED), refuse(LIMITED), say("b"))
    with scripted(turns) as target:
        refused = CliRunner().invoke(main, ["--target", target, "chat", "a"])
        done = CliRunner().invoke(main, ["--target", target, "chat", "a", "--retry", "5"])
    assert (refused.exit_code, refused.stderr) == (
        75,
        "edgeqwen: panel may have 9 requests a minute; try again in 0.0 s\n",
    )
    assert (done.exit_code, done.stdout) == (0, "b\n")
