"""The parts of a turn: each comes out as what it is, and what must be in it is, whatever the model would say."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from chatml import MARKED_CHATML, MARKS
from fakes import ScriptedSession, marked_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqwen.v1 import generation_pb2 as pb
from runtime.engine.engine import Engine
from runtime.engine.grammar import Grammars
from runtime.engine.sequence import Delta, Event, Finished, FinishReason
from runtime.errors import RequestError
from runtime.package import SamplingDefaults
from runtime.requests.chat import ChatTemplate
from runtime.requests.reader import RequestReader

TOKENS = marked_tokenizer()
VOCABULARY, CONTEXT = 260, 2000
EOS = 0  # the byte-level alphabet's first symbol is "!"
THINK, END_THINK, CALL, END_CALL = range(256, 260)
READER = RequestReader(
    TOKENS,
    ChatTemplate(MARKED_CHATML),
    SamplingDefaults(),
    VOCABULARY,
    CONTEXT,
    Grammars(TOKENS, VOCABULARY, frozenset({EOS})),
)
WEATHER = pb.Tool(
    name="weather",
    description="Tells the weather.",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {"city": {"enum": ["Bern", "Oslo"]}, "days": {"$ref": "#/$defs/days"}},
            "required": ["city", "days"],
            "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
        }
    ),
)
CLOCK = pb.Tool(name="clock")


def ask(**fields: object) -> pb.GenerateRequest:
    chat = {key: fields.pop(key) for key in ("tools", "thinking") if key in fields}
    return pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role="user", content="Hm?")], **chat), **fields)


def run(message: pb.GenerateRequest, session: Callable[[int], ScriptedSession], **engine: bool) -> list[Event]:
    """All events of a request; `session` gets the length of its prompt."""
    request = READER.read(message)
    serving = Engine(
        session(len(request.prompt)),
        TOKENS,
        eos_token_ids=frozenset({EOS}),
        queue_limit=1,
        prefill_chunk_tokens=64,
        kv_budget_tokens=CONTEXT,
        **engine,
    )
    events: list[Event] = []
    serving.submit(request, events.append)
    while not serving.idle:
        serving.step()
    return events


def saying(text: str) -> Callable[[int], ScriptedSession]:
    """A model that says `text`, and then ends its turn."""
    tokens = [*TOKENS.encode(text), EOS]

    def session(prompt: int) -> ScriptedSession:
        script = lambda history: tokens[min(max(0, len(history) - prompt), len(tokens) - 1)]  # noqa: E731
        return ScriptedSession(script, vocab_size=VOCABULARY, context_tokens=CONTEXT)

    return session


class Babbling(ScriptedSession):
    """A model whose logits are noise of its history, with a liking for some tokens."""

    def __init__(self, *likes: int, seed: int = 0) -> None:
        super().__init__(vocab_size=VOCABULARY, context_tokens=CONTEXT)
        self._likes, self._seed = list(likes), seed

    def _logits(self, slot: int) -> np.ndarray:
        row = np.random.default_rng([self._seed, *self.cache[slot]]).normal(size=VOCABULARY).astype(np.float32)
        row[self._likes] += 4
        return row


def parts(events: list[Event]) -> tuple[str, str, list[tuple[str, str]], FinishReason]:
    deltas = [event for event in events if isinstance(event, Delta)]
    end = events[-1]
    assert isinstance(end, Finished)
    calls = [(call.name, call.arguments) for delta in deltas for call in delta.tool_calls]
    ids = [call.id for delta in deltas for call in delta.tool_calls]
    assert len(set(ids)) == len(ids)
    return "".join(d.reasoning for d in deltas), "".join(d.text for d in deltas), calls, end.reason


PROSE = st.text(st.characters(codec="utf-8", exclude_characters="!"), min_size=1, max_size=20).filter(
    lambda text: text == text.strip() and not any(mark in text for mark in MARKS)
)


@given(reasoning=PROSE, answer=PROSE, speculate=st.booleans())
@settings(max_examples=40)
def test_reasoning_and_answer_come_apart(reasoning: str, answer: str, speculate: bool) -> None:
    """Each is streamed as its own, without the marks and blank lines around it."""
    session = saying(f"<think>\n{reasoning}\n</think>\n\n{answer}")
    assert parts(run(ask(), session, speculate=speculate)) == (reasoning, answer, [], FinishReason.EOS)


@given(answer=st.text(st.characters(codec="utf-8", exclude_characters="!"), min_size=1, max_size=30))
@settings(max_examples=40)
def test_an_answer_without_parts_is_left_as_it_is(answer: str) -> None:
    """White space, and marks where none may be, are text."""
    reasons = answer.startswith("<think>")
    assert reasons or parts(run(ask(), saying(answer)))[1] == answer


def test_a_mark_within_an_answer_is_text() -> None:
    """Only the turn's first token opens the reasoning; without tools nothing opens a call."""
    text = "a <think> b </think> c <tool_call> d </tool_call>"
    assert parts(run(ask(), saying(text))) == ("", text, [], FinishReason.EOS)


def test_a_raw_prompt_is_continued_as_it_is() -> None:
    """Parts are a chat's."""
    text = "<think>\nhm\n</think>\n\nyes"
    events = run(pb.GenerateRequest(prompt="go on"), saying(text))
    assert parts(events)[:2] == ("", text)


@pytest.mark.parametrize(
    ("thinking", "end"),
    [
        (pb.THINKING_AUTO, "<assistant>\n"),
        (pb.THINKING_ON, "<assistant>\n<think>\n"),
        (pb.THINKING_OFF, "<assistant>\n<think>\n\n</think>\n\n"),
    ],
)
def test_the_prompt_says_whether_to_reason(thinking: pb.Thinking, end: str) -> None:
    prompt = READER.read(ask(thinking=thinking)).prompt
    assert TOKENS.decode(list(prompt)).endswith(f"Hm?\n{end}")
    assert READER.tokens(pb.TokenizeRequest(chat=ask(thinking=thinking).chat)) == list(prompt)


def test_reasoning_that_the_prompt_opens_is_reasoning() -> None:
    events = run(ask(thinking=pb.THINKING_ON), saying("well\n</think>\n\nyes"))
    assert parts(events) == ("well", "yes", [], FinishReason.EOS)


@pytest.mark.parametrize("budget", [0, 1, 7])
@pytest.mark.parametrize("thinking", [pb.THINKING_ON, pb.THINKING_AUTO])
def test_reasoning_ends_where_its_budget_does(budget: int, thinking: pb.Thinking) -> None:
    """A model that would reason for ever answers after so many tokens of it."""

    def session(prompt: int) -> ScriptedSession:
        def script(history: tuple[int, ...]) -> int:
            if len(history) == prompt and thinking == pb.THINKING_AUTO:
                return THINK
            if END_THINK not in history[prompt:]:
                return TOKENS.encode("z")[0]
            return EOS if history[-1] == TOKENS.encode("y")[0] else TOKENS.encode("y")[0]

        return ScriptedSession(script, vocab_size=VOCABULARY, context_tokens=CONTEXT)

    events = run(ask(thinking=thinking, thinking_budget_tokens=budget), session)
    assert parts(events) == ("z" * budget, "y", [], FinishReason.EOS)


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_a_structure_holds_the_answer_not_the_reasoning(seed: int) -> None:
    """A babbling model that likes to end its turn cannot before the answer is complete."""
    message = ask(
        thinking=pb.THINKING_ON,
        thinking_budget_tokens=30,
        regex="[0-9]{4}",
        sampling=pb.Sampling(temperature=1, seed=seed),
    )
    _, answer, _, reason = parts(run(message, lambda _: Babbling(EOS, seed=seed)))
    assert len(answer) == 4
    assert answer.isdecimal()
    assert reason is FinishReason.EOS


def test_with_a_structure_a_model_that_may_leave_it_does_not_reason() -> None:
    prompt = READER.read(ask(regex="[0-9]+")).prompt
    assert TOKENS.decode(list(prompt)).endswith("<think>\n\n</think>\n\n")


@given(before=PROSE, after=PROSE, reasoning=PROSE)
@settings(max_examples=30)
def test_calls_come_out_parsed(before: str, after: str, reasoning: str) -> None:
    """Between any text; the blank lines around them are nobody's."""
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>'
    other = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    session = saying(f"<think>\n{reasoning}\n</think>\n\n{before}\n{call}\n{other}\n{after}")
    events = run(ask(tools=[WEATHER, CLOCK]), session)
    wanted = [("weather", '{"city": "Oslo", "days": 3}'), ("clock", "{}")]
    assert parts(events) == (reasoning, before + after, wanted, FinishReason.TOOL_CALLS)


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=25)
def test_a_babbling_model_calls_what_there_is_as_it_must(seed: int, required: bool) -> None:
    """Whatever it would say, a call has the tool's form; where one is required, there is one."""
    message = ask(
        tools=[WEATHER, CLOCK],
        require_tool_call=required,
        max_tokens=400,
        sampling=pb.Sampling(temperature=1, seed=seed),
    )
    _, _, calls, reason = parts(run(message, lambda _: Babbling(EOS, CALL, seed=seed)))
    for name, text in calls:
        arguments = json.loads(text)
        assert name in ("weather", "clock")
        if name == "clock":
            assert arguments == {}
        else:
            assert arguments.keys() == {"city", "days"}
            assert arguments["city"] in ("Bern", "Oslo")
            assert 1 <= arguments["days"] <= 9
    assert calls or not required
    assert reason in ((FinishReason.TOOL_CALLS,) if calls else (FinishReason.EOS,)) + (FinishReason.LENGTH,)


def test_a_call_that_is_cut_short_is_not_sent() -> None:
    call = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    events = run(ask(tools=[CLOCK], max_tokens=len(TOKENS.encode(call)) - 1), saying(call))
    assert parts(events) == ("", "", [], FinishReason.LENGTH)


def test_tools_and_their_results_reach_the_model() -> None:
    """As the template has them, which is as the OpenAI API does."""
    messages = [
        pb.Message(role="user", content="Rain?"),
        pb.Message(
            role="assistant",
            reasoning="look",
            tool_calls=[pb.ToolCall(id="call_1", name="weather", arguments='{"city": "Bern"}')],
        ),
        pb.Message(role="tool", content="dry", tool_call_id="call_1"),
    ]
    chat = pb.Chat(messages=messages, tools=[CLOCK])
    text = TOKENS.decode(READER.tokens(pb.TokenizeRequest(chat=chat)))
    function = {"name": "clock", "description": "", "parameters": {"type": "object", "properties": {}}}
    call = {"name": "weather", "arguments": {"city": "Bern"}}
    assert text == (
        json.dumps({"type": "function", "function": function})
        + "\n<user>Rain?\n<assistant><think>look</think>"
        + f"<tool_call>{json.dumps(call)}</tool_call>\n<tool>dry\n<assistant>\n"
    )


def tool(name: str, parameters: str = "") -> pb.Tool:
    return pb.Tool(name=name, parameters=parameters)


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (ask(require_tool_call=True), "require_tool_call"),
        (ask(tools=[CLOCK], regex="a"), "chat.tools"),
        (ask(tools=[tool("a b")]), "chat.tools[0].name"),
        (ask(tools=[CLOCK, CLOCK]), "chat.tools[1].name"),
        (ask(tools=[tool(f"t{at}") for at in range(65)]), "chat.tools"),
        (ask(tools=[CLOCK, tool("x", "{")]), "chat.tools[1].parameters"),
        (ask(tools=[tool("x", '{"type": "string"}')]), "chat.tools[0].parameters"),
        (
            ask(tools=[tool("x", '{"type": "object", "properties": {"a": {"type": "strin"}}}')]),
            'chat.tools[0].parameters["properties"]["a"]',
        ),
        (pb.GenerateRequest(prompt="x", thinking_budget_tokens=3), "thinking_budget_tokens"),
        (pb.GenerateRequest(prompt="x", require_tool_call=True), "require_tool_call"),
        (ask(n=17), "n"),
        (ask(n=0), "n"),
        (
            pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role="user", reasoning="hm")])),
            "chat.messages[0].reasoning",
        ),
        (
            pb.GenerateRequest(
                chat=pb.Chat(messages=[pb.Message(role="assistant", tool_calls=[pb.ToolCall(arguments="[]")])])
            ),
            "chat.messages[0].tool_calls[0].arguments",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(message: pb.GenerateRequest, path: str) -> None:
    with pytest.raises(RequestError) as refusal:
        READER.read(message)
    assert [fault.path for fault in refusal.value.faults] == [path]


def plain_reader(template: str, *, marks: bool = False) -> RequestReader:
    tokens = TOKENS if marks else READER.tokenizer
    return RequestReader(
        tokens,
        ChatTemplate(template),
        SamplingDefaults(),
        VOCABULARY,
        CONTEXT,
        Grammars(tokens, VOCABULARY, frozenset()),
    )


def test_a_model_that_cannot_is_not_asked_to() -> None:
    """Tools and reasoning need a template that knows them; off is no wish where nothing reasons."""
    reader = plain_reader("{% for m in messages %}{{ m.content }}{% endfor %}")
    for message in (ask(tools=[CLOCK]), ask(thinking=pb.THINKING_ON)):
        with pytest.raises(RequestError):
            reader.read(message)
    assert reader.read(ask(thinking=pb.THINKING_OFF)).prompt == tuple(TOKENS.encode("Hm?"))


def test_a_model_that_always_reasons_can_be_bounded_not_stopped() -> None:
    reader = plain_reader("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n")
    request = reader.read(ask(thinking=pb.THINKING_ON, thinking_budget_tokens=5))
    assert request.turn.reasons_at_once
    with pytest.raises(RequestError, match="always reasons"):
        reader.read(ask(thinking=pb.THINKING_OFF))


def test_samples_share_their_prompt_and_draw_apart() -> None:
    """The first is what one alone would be, each other that of the next seed."""
    message = ask(n=3, max_tokens=12, sampling=pb.Sampling(temperature=1, seed=2**64 - 1))
    engine = Engine(
        Babbling(),
        TOKENS,
        eos_token_ids=frozenset({EOS}),
        queue_limit=4,
        prefill_chunk_tokens=4,
        kv_budget_tokens=CONTEXT,
    )
    answers: list[list[Event]] = [[], [], []]
    sinks = [answer.append for answer in answers]
    engine.submit_all(list(zip(READER.samples(message), sinks, strict=True)))
    while not engine.idle:
        engine.step()
    cached = [answer[-1].usage.cached_prompt_tokens for answer in answers if isinstance(answer[-1], Finished)]
    prompt = len(READER.read(message).prompt)
    assert cached == [0, prompt - 1, prompt - 1]
    for seed, answer in zip((2**64 - 1, 0, 1), answers, strict=True):
        alone = run(ask(max_tokens=12, sampling=pb.Sampling(temperature=1, seed=seed)), lambda _: Babbling())
        assert parts(answer)[1] == parts(alone)[1]
    assert len({parts(answer)[1] for answer in answers}) == 3
