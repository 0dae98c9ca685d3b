"""The real `openai` client against the daemon's HTTP listener on a scripted model, over a unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx2
import openai
import pytest
from chatml import MARKED_CHATML
from fakes import ScriptedSession, marked_tokenizer
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionToolParam
from serving import MODEL, serving_http

TOKENS = marked_tokenizer()
ASKED = "Pressure of pump 7?"
PRESSURE: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "pressure",
        "description": "Reads a pump's pressure in bar.",
        "parameters": {"type": "object", "properties": {"pump": {"type": "integer"}}, "required": ["pump"]},
    },
}
# What the model says after a prompt that ends with the first.
SAYS = {
    f"<user>{ASKED}\n<assistant>\n": "<think>\nI must look.\n</think>\n\nOne moment.\n"
    '<tool_call>\n{"name": "pressure", "arguments": {"pump": 7}}\n</tool_call>',
    "<tool>4.2\n<assistant>\n": "It is 4.2 bar.",
    "<user>Hi\n<assistant>\n": "Hello there.",
    "One, two,": " three, four",
}


def script(history: tuple[int, ...]) -> int:
    text = TOKENS.decode(list(history)).replace("<think>\n\n</think>\n\n", "")
    asked = max(SAYS, key=lambda prompt: text.rfind(prompt))
    said = text[text.rfind(asked) + len(asked) :]
    rest = SAYS[asked].removeprefix(said)
    return TOKENS.encode(rest)[0] if rest else 0


@pytest.fixture(scope="module")
def path() -> Iterator[str]:
    session = ScriptedSession(script, vocab_size=260, context_tokens=2000)
    with serving_http(session, tokenizer=TOKENS, template=MARKED_CHATML) as where:
        yield where.removeprefix("unix:")


@pytest.fixture
def client(path: str) -> Iterator[OpenAI]:
    transport = httpx2.HTTPTransport(uds=path)
    with (
        httpx2.Client(transport=transport) as http,
        OpenAI(base_url="http://localhost/v1", api_key="none", http_client=http, max_retries=0) as client,
    ):
        yield client


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("other")
    assert error.value.code == "model_not_found"


def test_a_whole_answer(client: OpenAI) -> None:
    """Text, why it ended, and what it cost."""
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], temperature=0)
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hello there.", "stop")
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len("Hello there.") + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_with_usage(client: OpenAI) -> None:
    """A role first, then the text in pieces, an end, and the usage alone, as it was asked for."""
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=5,
    )
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 5


def test_tools_are_called_and_the_conversation_goes_on(client: OpenAI) -> None:
    """What the client gives back as it got it is understood, reasoning included."""
    messages: list = [{"role": "user", "content": ASKED}]  # type: ignore[type-arg]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[PRESSURE])
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert (choice.message.content, choice.message.reasoning_content) == ("One moment.", "I must look.")  # type: ignore[attr-defined]
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("pressure", {"pump": 7})
    messages += [choice.message, {"role": "tool", "content": "4.2", "tool_call_id": call.id}]
    final = client.chat.completions.create(model=MODEL, messages=messages, tools=[PRESSURE])
    assert final.choices[0].message.content == "It is 4.2 bar."


def test_tool_calls_in_a_stream(client: OpenAI) -> None:
    """The client's own helper puts them together."""
    with client.chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": ASKED}], tools=[PRESSURE]
    ) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].message.tool_calls is not None
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"pump": 7}'


def test_tool_choice(client: OpenAI) -> None:
    """A named tool must be called; `none` lets none be."""
    forced = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        tools=[PRESSURE],
        tool_choice={"type": "function", "function": {"name": "pressure"}},
        max_tokens=200,
    )
    assert forced.choices[0].message.tool_calls is not None
    assert forced.choices[0].message.tool_calls[0].function.name == "pressure"
    none = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], tools=[PRESSURE], tool_choice="none"
    )
    assert none.choices[0].message.content == "Hello there."


def test_answers_that_must_be_json(client: OpenAI) -> None:
    """Of a schema, or any object, whatever the model would say."""
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        response_format={"type": "json_schema", "json_schema": {"name": "state", "schema": schema, "strict": True}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["ok"], bool)
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        response_format={"type": "json_object"},
        max_tokens=1,
    )
    assert answer.choices[0].message.content == "{"


def test_choices_and_log_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        n=2,
        max_tokens=2,
        logprobs=True,
        top_logprobs=2,
        seed=-7,
        temperature=0,
    )
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, "He"), (1, "He")]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(each.token, each.bytes, len(each.top_logprobs)) for each in logprobs.content] == [
        ("H", [72], 2),
        ("e", [101], 2),
    ]
    assert logprobs.content[0].logprob == logprobs.content[0].top_logprobs[0].logprob <= 0


def test_stop_bias_and_what_is_not_openais(client: OpenAI) -> None:
    """A stop string; a token that must not come; the daemon's own settings through `extra_body`."""
    messages: list = [{"role": "user", "content": "Hi"}]  # type: ignore[type-arg]
    stopped = client.chat.completions.create(model=MODEL, messages=messages, stop=" ", user="u", metadata={"a": "b"})
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("Hello", "stop")
    [h] = TOKENS.encode("H")
    biased = client.chat.completions.create(
        model=MODEL, messages=messages, logit_bias={str(h): -100}, max_tokens=1, temperature=0
    )
    assert biased.choices[0].message.content != "H"
    more = {"top_k": 1, "min_p": 0.1, "ignore_eos": True, "deterministic": True}
    longer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=20, extra_body=more)
    assert longer.choices[0].finish_reason == "length"


def test_completions(client: OpenAI) -> None:
    """Of a text or of tokens, whole and streamed."""
    answer = client.completions.create(model=MODEL, prompt="One, two,", max_tokens=6, logprobs=1)
    [choice] = answer.choices
    assert (answer.object, choice.text, choice.finish_reason) == ("text_completion", " three", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4, 5]
    assert choice.logprobs.tokens == list(" three")
    stream = client.completions.create(model=MODEL, prompt=TOKENS.encode("One, two,"), max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == " three"
    for wrong in ({"echo": True}, {"prompt": ["a", "b"]}, {"best_of": 2}, {"suffix": "x"}):
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(**{"model": MODEL, "prompt": "One", **wrong})  # type: ignore[call-overload]
        assert error.value.param == next(iter(wrong))


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": 11}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 1 << 40}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"1": 1000}}, "logit_bias[1]"),
        ({"messages": [{"role": "pump", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"wind": 1}}, "wind"),
    ],
)
def test_what_cannot_work_is_said_with_its_parameter(client: OpenAI, wrong: dict[str, object], param: str) -> None:
    good = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**{**good, **wrong})  # type: ignore[call-overload]
    assert (error.value.param, error.value.type) == (param, "invalid_request_error")


async def test_asyncio(path: str) -> None:
    """The asyncio client, many at once, whole and streamed."""
    transport = httpx2.AsyncHTTPTransport(uds=path)
    async with (
        asyncio.timeout(20),
        httpx2.AsyncClient(transport=transport) as http,
        AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=http, max_retries=0) as client,
    ):

        async def text() -> str:
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Hi"}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert await asyncio.gather(*(text() for _ in range(12))) == ["Hello there."] * 12
