"""The `edgeqwen` command as scripts use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from fakes import ScriptedSession
from serving import serving

from edgeqwen.cli import main
from edgeqwen.client import Client, Options


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving(ScriptedSession(context_tokens=4096)) as target:
        yield target


def run(target: str, *arguments: str, piped: str = "") -> Result:
    return CliRunner().invoke(main, ["--target", target, *arguments], input=piped)


def test_an_answer_goes_to_stdout_and_its_figures_to_stderr(target: str) -> None:
    """The answer ends its line, and a script that reads stdout gets nothing else."""
    done = run(target, "chat", "hello", "--max-tokens", "5", "--stats")
    assert done.exit_code == 0
    assert done.stdout.endswith("\n")
    assert "tokens/s, first after" in done.stderr


def test_json_is_an_object_a_line(target: str) -> None:
    """Started, deltas, finished; the deltas' tokens add up to the usage."""
    done = run(target, "generate", "abc", "--max-tokens", "7", "--ignore-eos", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["started", "finished"]
    assert sum(len(event["token_ids"]) for event in events[1:-1]) == events[-1]["completion_tokens"] == 7


def test_adapters_are_listed_and_chosen() -> None:
    """A name that is none is the daemon's to refuse."""
    with serving(ScriptedSession(adapters=("pumps", "tone"))) as target:
        asked = ("generate", "abc", "--max-tokens", "3", "--temperature", "0")
        answers = {run(target, *asked, *flags).stdout for flags in ((), ("--adapter", "pumps"), ("--adapter", "tone"))}
        assert len(answers) == 3
        assert run(target, *asked, "--adapter", "valves").exit_code == 3
        assert re.search(r"adapters +pumps, tone", run(target, "status").stdout)


def test_what_is_piped_in_is_part_of_the_message(target: str) -> None:
    """It follows the argument after an empty line."""
    alone = run(target, "chat", "a\n\nb", "--max-tokens", "4")
    piped = run(target, "chat", "a", "--max-tokens", "4", piped="b\n")
    assert alone.stdout == piped.stdout


def test_token_ids_are_read_with_commas_or_spaces(target: str) -> None:
    """Both say the same, and what is no number is a usage error."""
    outputs = {run(target, "generate", "--token-ids", ids, "--max-tokens", "3").stdout for ids in ("5,6,7", "5 6 7")}
    assert len(outputs) == 1
    assert run(target, "generate", "--token-ids", "five").exit_code == 2


def test_a_bias_reaches_the_model(target: str) -> None:
    """It forces a token; what is no bias is a usage error, and what is out of range the daemon's to refuse."""
    done = run(
        target, "generate", "abc", "--max-tokens", "3", "--logit-bias", "66=100", "--logit-bias", "67=-5", "--json"
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [token for event in events[1:-1] for token in event["token_ids"]] == [66, 66, 66]
    assert [run(target, "generate", "abc", "--logit-bias", bias).exit_code for bias in ("66", "66=101")] == [2, 3]


def test_tokens_are_listed_and_counted(target: str) -> None:
    """The ids can be given back to `generate`; the chat template adds its own."""
    ids = run(target, "tokenize", "abc").stdout
    asked = ("--max-tokens", "3")
    assert run(target, "generate", "--token-ids", ids, *asked).stdout == run(target, "generate", "abc", *asked).stdout
    assert run(target, "tokenize", "--count", piped="abc").stdout == "3\n"
    templated = json.loads(run(target, "tokenize", "abc", "--chat", "--json").stdout)
    assert len(templated["token_ids"]) == templated["count"] > 3


def test_status_for_people_and_for_scripts(target: str) -> None:
    """The same figures as a table and as one JSON object."""
    status = json.loads(run(target, "status", "--json").stdout)
    assert (status["health"], status["models"][0]["engine"]["slots"]) == ("SERVING", 4)
    shown = run(target, "status").stdout
    assert "SERVING" in shown
    assert "0 of 4" in shown


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["chat", "hi", "--temperature", "99"], 3),
        (["chat"], 2),
        (["generate", "x" * 5000], 3),
        (["generate", "abc", "--ignore-eos", "--timeout", "0.001"], 124),
    ],
)
def test_exit_codes_are_the_documented_ones(target: str, arguments: list[str], status: int) -> None:
    """Each failure has its own, with one line on stderr."""
    done = run(target, *arguments)
    assert done.exit_code == status
    assert status == 2 or done.stderr.count("\n") == 1


def test_a_full_queue_is_75() -> None:
    """As sysexits.h calls what may work later; the line says when."""
    session = ScriptedSession(slots=1, context_tokens=200_000)
    with serving(session, queue_limit=1) as target, Client(target) as client:
        running = [client.generate(prompt="abc", options=Options(ignore_eos=True)) for _ in range(2)]
        for events in running:
            next(events)
        done = run(target, "generate", "abc")
        for events in running:
            events.close()
    assert done.exit_code == 75
    assert re.search(r"the queue is full \(1 requests wait\); try again in \d+\.\d s\n$", done.stderr)
    assert done.stdout == ""


def test_no_daemon_is_69() -> None:
    """As sysexits.h calls an unavailable service."""
    done = run("unix:/nowhere.sock", "status")
    assert done.exit_code == 69
    assert "is edgeqwend running" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    """Each names the variable by which click answers it, and no daemon is needed."""
    done = run("unix:/x", "completion", shell)
    assert done.exit_code == 0
    assert "_EDGEQWEN_COMPLETE" in done.stdout
