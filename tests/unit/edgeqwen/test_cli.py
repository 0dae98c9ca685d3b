"""The `edgeqwen` command as scripts use it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from fakes import ScriptedSession
from serving import serving

from edgeqwen.cli import main


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving(ScriptedSession(context_tokens=4096)) as target:
        yield target


def run(target: str, *arguments: str, piped: str = "") -> Result:
    return CliRunner().invoke(main, ["--target", target, *arguments], input=piped)


def test_an_answer_goes_to_stdout_and_its_figures_to_stderr(target: str) -> None:
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


def test_what_is_piped_in_is_part_of_the_message(target: str) -> None:
    alone = run(target, "chat", "a\n\nb", "--max-tokens", "4")
    piped = run(target, "chat", "a", "--max-tokens", "4", piped="b\n")
    assert alone.stdout == piped.stdout


def test_token_ids_are_read_with_commas_or_spaces(target: str) -> None:
    outputs = {run(target, "generate", "--token-ids", ids, "--max-tokens", "3").stdout for ids in ("5,6,7", "5 6 7")}
    assert len(outputs) == 1
    assert run(target, "generate", "--token-ids", "five").exit_code == 2


def test_status_for_people_and_for_scripts(target: str) -> None:
    status = json.loads(run(target, "status", "--json").stdout)
    assert (status["health"], status["engine"]["slots"]) == ("SERVING", 4)
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
    done = run(target, *arguments)
    assert done.exit_code == status
    assert status == 2 or done.stderr.count("\n") == 1


def test_no_daemon_is_69() -> None:
    done = run("unix:/nowhere.sock", "status")
    assert done.exit_code == 69
    assert "is edgeqwend running" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    done = run("unix:/x", "completion", shell)
    assert done.exit_code == 0
    assert "_EDGEQWEN_COMPLETE" in done.stdout
