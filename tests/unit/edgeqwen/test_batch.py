"""Many answers from one call: `n` of one prompt, and batches; through the real services and the real clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing

import pytest
from click.testing import CliRunner, Result
from fakes import ScriptedSession
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import serving
from unit.edgeqwen.test_client import wait_until_free

from edgeqwen.cli import main
from edgeqwen.client import Ask, AsyncClient, Client, Completion, InvalidRequest, Options

GREEDY = Options(temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving(ScriptedSession(context_tokens=4096), queue_limit=3) as target:
        yield target


def ask(prompt: str, tokens: int, **options: object) -> Ask:
    return Ask(prompt=prompt, options=Options(temperature=0.0, ignore_eos=True, max_tokens=tokens, **options))


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=40), st.integers(1, 30)), min_size=1, max_size=20))
@settings(max_examples=20)
def test_a_batch_gets_each_answer_once_and_none_is_another(target: str, asked: list[tuple[str, int]]) -> None:
    """Also where it is longer than the queue; each is what it would be alone."""
    asks = [ask(prompt, tokens) for prompt, tokens in asked]
    with Client(target) as client:
        results = list(client.generate_batch(asks))
        assert sorted(place for place, _ in results) == list(range(len(asks)))
        for place, result in results:
            assert isinstance(result, Completion)
            alone = client.complete(asked[place][0], options=asks[place].options)
            assert (result.token_ids, result.text) == (alone.token_ids, alone.text)


def test_answers_come_in_the_order_in_which_they_end(target: str) -> None:
    """A short one that starts beside a long one does not wait for it."""
    with Client(target) as client:
        places = [place for place, _ in client.generate_batch([ask("a", 500), ask("b", 1), ask("c", 3)])]
    assert places == [1, 2, 0]


def test_samples_come_by_index_and_their_prompt_is_computed_once(target: str) -> None:
    options = Options(temperature=0.0, ignore_eos=True, max_tokens=8, n=3, seed=5)
    with Client(target, scope=b"") as client:
        answers = client.samples(prompt="x" * 50, options=options)
        assert [answer.finished.index for answer in answers] == [0, 1, 2]
        assert [answer.finished.cached_prompt_tokens for answer in answers] == [0, 49, 49]
        assert len({answer.text for answer in answers}) == 1  # greedy
        again = client.samples(prompt="x" * 50, options=options)
    assert again[0].finished.cached_prompt_tokens == 0, "nobody else starts from what no scope owns"
    with Client(target) as client, pytest.raises(ValueError, match="samples"):
        client.complete("x", options=options)


def test_a_batch_holds_samples_too(target: str) -> None:
    with Client(target) as client:
        results = list(client.generate_batch([ask("a", 2), ask("b", 3, n=4)]))
    found = sorted((place, result.finished.index) for place, result in results if isinstance(result, Completion))
    assert found == [(0, 0), *((1, index) for index in range(4))]


def test_a_batch_with_a_fault_is_refused_whole(target: str) -> None:
    """Before anything of it runs, with every fault and its place."""
    with Client(target) as client, pytest.raises(InvalidRequest) as refusal:
        list(client.generate_batch([ask("a", 2), ask("", 2), ask("c", 2, top_k=999), ask("d", 4096)]))
    assert [field for field, _ in refusal.value.violations] == [
        "requests[1].input",
        "requests[2].sampling.top_k",
        "requests[3].max_tokens",
    ]
    with Client(target) as client, pytest.raises(InvalidRequest, match="at least one"):
        list(client.generate_batch([]))


def test_leaving_a_batch_frees_what_runs_and_what_waits(target: str) -> None:
    async def leave() -> None:
        asks = [ask("a", 1), *[ask("b", 4000)] * 12]
        async with AsyncClient(target) as client, aclosing(client.generate_batch(asks)) as results:
            assert (await anext(results))[0] == 0

    asyncio.run(leave())
    with Client(target) as client:
        wait_until_free(client)
        assert client.snapshot().models[0].engine.queue_depth == 0


def test_a_failure_in_a_batch_is_its_own() -> None:
    """The session fails once: what ran then fails, what waits is answered."""
    session = ScriptedSession()
    with serving(session) as target, Client(target) as client:
        session.fail_next = "out of order"
        results = dict(client.generate_batch([ask("a", 2), *[ask("b", 2)] * 9]))
    failed = [place for place, result in results.items() if not isinstance(result, Completion)]
    assert 0 < len(failed) < 10
    assert "out of order" in str(results[failed[0]])


def run(target: str, *arguments: str, piped: str = "") -> Result:
    return CliRunner().invoke(main, ["--target", target, *arguments], input=piped)


def test_lines_in_lines_out(target: str) -> None:
    """Each answer has its request's place and id; a line's options win over flags."""
    lines = [
        {"id": "x", "prompt": "abc", "options": {"max_tokens": 2, "stop": ["zz"], "logit_bias": {"66": 100}}},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"token_ids": [5, 6]},
    ]
    done = run(target, "batch", "--max-tokens", "4", "--ignore-eos", piped="\n".join(map(json.dumps, lines)) + "\n\n")
    assert done.exit_code == 0, done.output
    answers = sorted(map(json.loads, done.stdout.splitlines()), key=lambda answer: answer["request"])
    assert [answer.get("id") for answer in answers] == ["x", None, None]
    assert [answer["completion_tokens"] for answer in answers] == [2, 4, 4]
    assert {answer["reason"] for answer in answers} == {"length"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2 is no request: Expecting"),
        ("[]", "line 2 is no request: it has to be an object"),
        ('{"text": "a"}', "line 2 is no request: it has to be an object"),
        ('{"prompt": "a", "messages": []}', "line 2 is no request: give exactly one"),
        ('{"prompt": "a", "options": {"heat": 1}}', "line 2 is no request: there is no option heat"),
        ('{"prompt": "a", "options": {"max_tokens": "many"}}', "line 2 is no request"),
        ('{"prompt": "a", "options": {"max_tokens": -1}}', "line 2 is no request: max_tokens: must be 0 to"),
        ('{"prompt": 3}', "line 2 is no request"),
        ('{"messages": [{"role": "user", "text": "a"}]}', "line 2 is no request"),
        ('{"prompt": "\\ud800"}', "line 2 is no request: prompt: must be text"),
    ],
)
def test_a_line_that_is_no_request_is_named(target: str, line: str, reason: str) -> None:
    done = run(target, "batch", piped=f'{{"prompt": "a"}}\n{line}\n')
    assert (done.exit_code, done.stdout) == (2, "")
    assert reason in done.stderr


def test_several_answers_in_a_terminal_come_one_after_the_other(target: str) -> None:
    done = run(target, "generate", "abc", "-n", "2", "--max-tokens", "3", "--ignore-eos", "--temperature", "0")
    assert done.exit_code == 0
    half = len(done.stdout) // 2
    assert done.stdout[:half] == done.stdout[half:]
    assert done.stderr.splitlines() == ["--- 1", "--- 2"]
