"""Reasoning and tools through the real services: what a program gets, what it sends back, what a terminal shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chatml import MARKED_CHATML
from click.testing import CliRunner, Result
from fakes import ScriptedSession, marked_tokenizer
from serving import serving

from edgeqwen.cli import main
from edgeqwen.client import AsyncClient, Client, Delta, InvalidRequest, Options, Tool, ToolCall, Turn

TOKENS = marked_tokenizer()
ASKED = "Pressure of pump 7?"
PRESSURE = Tool(
    "pressure",
    "Reads a pump's pressure in bar.",
    {"type": "object", "properties": {"pump": {"type": "integer"}}, "required": ["pump"]},
)
OPTIONS = Options(tools=(PRESSURE,))
# What the model says after a prompt that ends with the first.
SAYS = {
    f"<user>{ASKED}\n<assistant>\n": "<think>\nI must look.\n</think>\n\nOne moment.\n"
    '<tool_call>\n{"name": "pressure", "arguments": {"pump": 7}}\n</tool_call>',
    "<tool>4.2\n<assistant>\n": "It is 4.2 bar.",
}


def script(history: tuple[int, ...]) -> int:
    text = TOKENS.decode(list(history))
    asked = max(SAYS, key=lambda prompt: text.rfind(prompt))
    said = text[text.rfind(asked) + len(asked) :]
    rest = SAYS[asked].removeprefix(said)
    return TOKENS.encode(rest)[0] if rest else 0


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    session = ScriptedSession(script, vocab_size=260, context_tokens=2000)
    with serving(session, tokenizer=TOKENS, template=MARKED_CHATML) as target:
        yield target


def test_a_program_calls_what_the_model_wants_and_goes_on(target: str) -> None:
    """Reasoning, text and call come apart, and the conversation that holds them and the result is understood."""
    with Client(target) as client:
        turns = [("user", ASKED)]
        answer = client.chat(turns, options=OPTIONS)
        assert (answer.reasoning, answer.text, answer.finished.reason) == ("I must look.", "One moment.", "tool_calls")
        assert answer.tool_calls == (ToolCall("call_1", "pressure", '{"pump": 7}'),)
        turns += [answer.turn, Turn("tool", "4.2", tool_call_id=answer.tool_calls[0].id)]
        final = client.chat(turns, options=OPTIONS)
        assert (final.reasoning, final.text, final.tool_calls) == ("", "It is 4.2 bar.", ())
        assert client.count_tokens(messages=turns, options=OPTIONS) == final.finished.prompt_tokens


def test_parts_stream_as_they_come(target: str) -> None:
    async def kinds() -> list[str]:
        async with AsyncClient(target) as client:
            events = client.generate(messages=[("user", ASKED)], options=OPTIONS)
            deltas = [event async for event in events if isinstance(event, Delta)]
        parts = [(("reasoning", d.reasoning), ("text", d.text), ("call", d.tool_calls)) for d in deltas]
        return [kind for delta in parts for kind, said in delta if said]

    found = asyncio.run(kinds())
    assert found == sorted(found, key=["reasoning", "text", "call"].index)
    assert set(found) == {"reasoning", "text", "call"}


def run(target: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--target", target, *arguments])


@pytest.mark.parametrize("openai", [False, True])
def test_a_terminal_shows_the_answer_apart_from_the_reasoning(target: str, tmp_path: Path, openai: bool) -> None:
    """Stdout has the text and a line for each call; tools may be written as the OpenAI API has them."""
    tool = {"name": PRESSURE.name, "description": PRESSURE.description, "parameters": PRESSURE.parameters}
    (tmp_path / "tools.json").write_text(json.dumps([{"type": "function", "function": tool} if openai else tool]))
    done = run(target, "chat", ASKED, "--tools", str(tmp_path / "tools.json"))
    assert done.exit_code == 0, done.output
    assert done.stdout == 'One moment.\n{"call": "pressure", "arguments": {"pump": 7}}\n'
    assert "I must look." in done.stderr


@pytest.mark.parametrize("text", ["{", "[{}]", "[3]", '"x"'])
def test_a_file_that_holds_no_tools_is_a_usage_error(target: str, tmp_path: Path, text: str) -> None:
    (tmp_path / "tools.json").write_text(text)
    done = run(target, "chat", "x", "--tools", str(tmp_path / "tools.json"))
    assert (done.exit_code, done.stdout) == (2, "")


def test_what_only_a_conversation_has_is_refused_elsewhere(target: str) -> None:
    """By the client where the contract has no place for it, by the daemon where it has."""
    with Client(target) as client:
        for options in (OPTIONS, Options(thinking="off"), Options(preset="code")):
            with pytest.raises(ValueError, match="are for messages"):
                client.complete("x", options=options)
        with pytest.raises(InvalidRequest, match=r"thinking_budget_tokens: is only for a chat"):
            client.complete("x", options=Options(thinking_budget_tokens=3))
        with pytest.raises(InvalidRequest, match=r"chat\.preset: must be one of this package's: none"):
            client.chat([("user", "x")], options=Options(preset="code"))
        with pytest.raises(ValueError, match="thinking is one of"):
            client.chat([("user", "x")], options=Options(thinking="hard"))  # type: ignore[arg-type]
