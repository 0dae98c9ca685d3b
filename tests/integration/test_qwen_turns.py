"""Qwen's own tokenizers and chat templates: prompts as transformers renders them, turns taken apart as the models mark
them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import ScriptedSession
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from edgeqwen.v1 import generation_pb2 as pb
from runtime.engine.engine import Engine
from runtime.engine.grammar import Grammars
from runtime.engine.sequence import Delta, Event, Finished, FinishReason, ToolCall
from runtime.engine.tokenizer import Tokenizer
from runtime.package import SamplingDefaults
from runtime.requests.chat import ChatMessage, ChatTemplate, Tool
from runtime.requests.reader import RequestReader

pytestmark = pytest.mark.slow

QWENS = ("Qwen2.5-0.5B-Instruct", "Qwen3-0.6B")
VOCABULARY, END_OF_TURN = 151_936, 151_645
WEATHER = Tool(
    "weather",
    "Tells the weather.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30)
CALLS = st.lists(
    st.builds(
        lambda name, city: ToolCall("", name, json.dumps({"city": city}, ensure_ascii=False)),
        st.sampled_from(["weather", "clock"]),
        TEXT,
    ),
    max_size=2,
)
TURNS = st.lists(
    st.one_of(
        st.builds(ChatMessage, st.just("user"), TEXT),
        st.builds(ChatMessage, st.just("assistant"), TEXT, TEXT, CALLS.map(tuple)),
        st.builds(ChatMessage, st.just("tool"), TEXT),
    ),
    max_size=5,
)
SYSTEM = st.lists(st.builds(ChatMessage, st.just("system"), TEXT), max_size=1)


@pytest.fixture(scope="module", params=QWENS)
def theirs(shared: Path, request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(shared / "models" / request.param)


@given(system=SYSTEM, turns=TURNS, last=TEXT, tools=st.booleans(), thinking=st.sampled_from([None, True, False]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prompts_are_those_of_transformers(
    theirs: PreTrainedTokenizerBase,
    system: list[ChatMessage],
    turns: list[ChatMessage],
    last: str,
    tools: bool,
    thinking: bool | None,
) -> None:
    """With tools, calls, results and reasoning in the history, and whether to reason now."""
    messages = [*system, *turns, ChatMessage("user", last)]
    ours = ChatTemplate(theirs.chat_template).render(messages, tools=[WEATHER] if tools else [], thinking=thinking)
    function = {"name": WEATHER.name, "description": WEATHER.description, "parameters": dict(WEATHER.parameters)}
    assert ours == theirs.apply_chat_template(
        [_openai(message) for message in messages],
        tools=[{"type": "function", "function": function}] if tools else None,
        tokenize=False,
        add_generation_prompt=True,
        **({} if thinking is None else {"enable_thinking": thinking}),
    )


def _openai(message: ChatMessage) -> dict[str, object]:
    turn: dict[str, object] = {"role": message.role, "content": message.content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
            for call in message.tool_calls
        ]
    return turn


def test_a_turn_of_qwen3_is_taken_apart(shared: Path) -> None:
    """As the model's own tokens have it: reasoning, text, a call."""
    folder = shared / "models" / "Qwen3-0.6B"
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    source = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    reader = RequestReader(
        tokenizer,
        ChatTemplate(source),
        SamplingDefaults(),
        VOCABULARY,
        2000,
        Grammars(tokenizer, VOCABULARY, frozenset({END_OF_TURN})),
    )
    tool = pb.Tool(name=WEATHER.name, description=WEATHER.description, parameters=json.dumps(WEATHER.parameters))
    chat = pb.Chat(messages=[pb.Message(role="user", content="Rain in Zürich?")], tools=[tool])
    request = reader.read(pb.GenerateRequest(chat=chat))
    says = tokenizer.encode(
        "<think>\nI should look.\n</think>\n\nLet me see.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call><|im_end|>'
    )
    assert says[-1] == END_OF_TURN
    at = len(request.prompt)
    session = ScriptedSession(
        lambda history: says[max(0, len(history) - at)], vocab_size=VOCABULARY, context_tokens=2000, slots=1
    )
    engine = Engine(
        session,
        tokenizer,
        eos_token_ids=frozenset({END_OF_TURN}),
        queue_limit=1,
        prefill_chunk_tokens=512,
        kv_budget_tokens=2000,
        speculate=False,
    )
    events: list[Event] = []
    engine.submit(request, events.append)
    while not engine.idle:
        engine.step()
    deltas = [event for event in events if isinstance(event, Delta)]
    end = events[-1]
    assert "".join(delta.reasoning for delta in deltas) == "I should look."
    assert "".join(delta.text for delta in deltas) == "Let me see."
    assert [call for delta in deltas for call in delta.tool_calls] == [
        ToolCall("call_1", "weather", '{"city": "Zürich"}')
    ]
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.TOOL_CALLS
