"""Reading requests: what is good becomes tokens and parameters, what is not is refused with every reason."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.runtime.fake_engine import CONTEXT_TOKENS, VOCABULARY, byte_tokenizer, make_reader

from edgeqwen.v1 import generation_pb2 as pb
from runtime.configuration.config import SharePrefix
from runtime.engine.sequence import SamplingParams
from runtime.errors import RequestError
from runtime.package import SamplingDefaults

READER = make_reader()


def faults_of(message: pb.GenerateRequest) -> list[str]:
    with pytest.raises(RequestError) as refusal:
        READER.read(message)
    return [str(fault) for fault in refusal.value.faults]


def test_chat_prompt_and_token_ids_are_three_ways_to_say_the_same() -> None:
    """A conversation is its rendered template, and text its tokens."""
    text = "<user>hé<assistant>"
    ids = byte_tokenizer().encode(text)
    chat = pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role="user", content="hé")]))
    prompt = pb.GenerateRequest(prompt=text)
    tokens = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids))
    assert READER.read(chat) == READER.read(prompt) == READER.read(tokens)
    assert READER.read(prompt).prompt == tuple(ids)


def test_unset_fields_take_the_packages_defaults() -> None:
    """Sampling as the package says, the rest of the context for the answer, no stop strings."""
    defaults = SamplingDefaults(temperature=0.7, top_k=20, top_p=0.8, min_p=0.1, repetition_penalty=1.1)
    request = make_reader(defaults=defaults).read(pb.GenerateRequest(prompt="abc"))
    assert request.sampling == SamplingParams(0.7, 20, 0.8, 0.1, 1.1, seed=None)
    assert (request.max_tokens, request.stop, request.ignore_eos) == (CONTEXT_TOKENS - 3, (), False)


def test_set_fields_win_over_the_defaults_zero_included() -> None:
    """Presence decides, not truth: temperature 0 asks for greedy decoding, seed 0 is a seed."""
    defaults = SamplingDefaults(temperature=0.7, top_k=20, top_p=0.8, min_p=0.1, repetition_penalty=1.1)
    sampling = pb.Sampling(temperature=0, top_k=0, top_p=1, min_p=0, repetition_penalty=1, seed=0)
    request = make_reader(defaults=defaults).read(
        pb.GenerateRequest(prompt="abc", sampling=sampling, max_tokens=5, stop=["x"], ignore_eos=True)
    )
    assert request.sampling == SamplingParams(0, 0, 1, 0, 1, seed=0)
    assert (request.max_tokens, request.stop, request.ignore_eos) == (5, ("x",), True)


def chat(*turns: tuple[str, str]) -> pb.GenerateRequest:
    return pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role=role, content=text) for role, text in turns]))


def biased(bias: dict[int, float]) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="x", sampling=pb.Sampling(logit_bias=bias))


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (pb.GenerateRequest(), "input: is required: set chat, prompt or token_ids"),
        (pb.GenerateRequest(prompt=""), "input: must hold at least one token"),
        (pb.GenerateRequest(token_ids=pb.TokenIds()), "input: must hold at least one token"),
        (chat(), "chat.messages: must hold at least one message"),
        (
            chat(("user", "a"), ("boss", "b")),
            "chat.messages[1].role: must be one of system, user, assistant, tool (got 'boss')",
        ),
        (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5, 256])), "token_ids.ids[1]: must be below 256 (got 256)"),
        (
            pb.GenerateRequest(prompt="x" * 200),
            "input: has 200 tokens; at most 199 leave room for an answer: shorten it",
        ),
        (pb.GenerateRequest(prompt="x", max_tokens=0), "max_tokens: must be 1 to 200 (got 0)"),
        (pb.GenerateRequest(prompt="x", max_tokens=201), "max_tokens: must be 1 to 200 (got 201)"),
        (
            pb.GenerateRequest(prompt="x" * 150, max_tokens=51),
            "max_tokens: must be at most 50: the prompt's 150 tokens and the answer share 200 (got 51)",
        ),
        (pb.GenerateRequest(prompt="x", stop=["a"] * 17), "stop: must hold at most 16 strings (got 17)"),
        (pb.GenerateRequest(prompt="x", stop=["ok", ""]), "stop[1]: must be 1 to 256 bytes (got 0)"),
        (pb.GenerateRequest(prompt="x", stop=["é" * 129]), "stop[0]: must be 1 to 256 bytes (got 258)"),
        (biased({256: 1}), "sampling.logit_bias[256]: is no token: they are below 256"),
        (biased({5: -100.5}), "sampling.logit_bias[5]: must be -100 to 100 (got -100.5)"),
        (biased({5: math.nan}), "sampling.logit_bias[5]: must be -100 to 100 (got nan)"),
        (biased(dict.fromkeys(range(1025), 1)), "sampling.logit_bias: must be at most 1024 tokens (got 1025)"),
        (pb.GenerateRequest(prompt="x", top_logprobs=21), "top_logprobs: must be 0 to 20 (got 21)"),
        (pb.GenerateRequest(prompt="x", cache_scope=b"?" * 15), "cache_scope: must be 16 to 64 bytes (got 15)"),
        (pb.GenerateRequest(prompt="x", cache_scope=b"?" * 65), "cache_scope: must be 16 to 64 bytes (got 65)"),
    ],
)
def test_a_request_that_cannot_work_says_where_and_what_would(message: pb.GenerateRequest, fault: str) -> None:
    """One fault, with its path and its limit."""
    assert faults_of(message) == [fault]


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("temperature", (-0.1, 10.5, math.nan, math.inf), (0, 10)),
        ("top_k", (VOCABULARY + 1,), (0, VOCABULARY)),
        ("top_p", (0, -1, 1.5, math.nan), (0.5, 1)),
        ("min_p", (-0.5, 1.5, math.nan), (0, 1)),
        ("repetition_penalty", (0, -1, 10.5, math.nan, math.inf), (0.5, 10)),
        ("presence_penalty", (-2.5, 3, math.nan, math.inf), (-2, 2)),
        ("frequency_penalty", (-2.5, 3, math.nan, math.inf), (-2, 2)),
    ],
)
def test_sampling_stays_in_its_ranges(field: str, bad: tuple[float, ...], good: tuple[float, ...]) -> None:
    """The ranges are those of the proto, ends included as it says; not-a-number is in none."""
    for value in good:
        READER.read(pb.GenerateRequest(prompt="x", sampling=pb.Sampling(**{field: value})))
    for value in bad:
        [fault] = faults_of(pb.GenerateRequest(prompt="x", sampling=pb.Sampling(**{field: value})))
        assert fault.startswith(f"sampling.{field}: must be ")
        assert fault.endswith(f"(got {value:g})")


def test_every_fault_is_reported_at_once() -> None:
    """Sorted by path, so that the same request gets the same answer."""
    message = chat(("nobody", "a"))
    message.max_tokens = 0
    message.sampling.top_p = 2
    message.stop.append("")
    paths = [fault.partition(":")[0] for fault in faults_of(message)]
    assert paths == ["chat.messages[0].role", "max_tokens", "sampling.top_p", "stop[0]"]


def test_a_model_that_cannot_chat_says_what_it_can() -> None:
    """Without a template conversations are refused, and raw prompts work."""
    reader = make_reader(template=None)
    with pytest.raises(RequestError, match="no chat template; send a raw prompt"):
        reader.read(chat(("user", "hi")))
    assert reader.read(pb.GenerateRequest(prompt="hi")).prompt


def test_what_a_reply_cannot_hold_is_refused() -> None:
    """More tokens than it can list, though it can count them, and more than it can join."""
    many = pb.TokenizeRequest(prompt="x" * ((1 << 20) + 1))
    with pytest.raises(RequestError, match="has 1048577 tokens, too many to list: set count_only"):
        READER.tokens(many)
    many.count_only = True
    assert len(READER.tokens(many)) == 1048577
    with pytest.raises(RequestError, match=r"token_ids: must be at most 131072 tokens \(got 131073\)"):
        READER.text(pb.DetokenizeRequest(token_ids=[5] * 131073))


@pytest.mark.parametrize(
    ("share_prefix", "unset", "mine", "yours"),
    [("client", None, b"m" * 16, b"y" * 64), ("all", b"", b"", b""), ("off", None, None, None)],
)
def test_who_shares_with_whom_is_the_operators_to_say(
    share_prefix: SharePrefix, unset: bytes | None, mine: bytes | None, yours: bytes | None
) -> None:
    """Those who name the same secret, everybody, or nobody."""
    reader = replace(READER, share_prefix=share_prefix)
    asked = [pb.GenerateRequest(prompt="x", cache_scope=scope) for scope in (b"", b"m" * 16, b"y" * 64)]
    assert [reader.read(each).scope for each in asked] == [unset, mine, yours]


messages = st.builds(
    pb.GenerateRequest,
    prompt=st.text(max_size=300),
    max_tokens=st.none() | st.integers(0, 2**32 - 1),
    stop=st.lists(st.text(max_size=130), max_size=18),
    cache_scope=st.binary(max_size=70),
    sampling=st.builds(
        pb.Sampling,
        temperature=st.none() | st.floats(width=32),
        top_k=st.none() | st.integers(0, 2**32 - 1),
        top_p=st.none() | st.floats(width=32),
        min_p=st.none() | st.floats(width=32),
        repetition_penalty=st.none() | st.floats(width=32),
        presence_penalty=st.none() | st.floats(width=32),
        frequency_penalty=st.none() | st.floats(width=32),
        logit_bias=st.dictionaries(st.integers(0, 2**32 - 1), st.floats(width=32), max_size=3),
        seed=st.none() | st.integers(0, 2**64 - 1),
    ),
)


@given(messages)
@settings(deadline=None)
def test_whatever_comes_is_either_refused_or_within_all_bounds(message: pb.GenerateRequest) -> None:
    """No other exception, and nothing out of range reaches the engine."""
    try:
        request = READER.read(message)
    except RequestError:
        return
    sampling = request.sampling
    assert 1 <= len(request.prompt) < CONTEXT_TOKENS
    assert 1 <= request.max_tokens <= CONTEXT_TOKENS
    assert 0 <= sampling.temperature <= 10
    assert 0 <= sampling.top_k <= VOCABULARY
    assert 0 < sampling.top_p <= 1
    assert 0 <= sampling.min_p <= 1
    assert 0 < sampling.repetition_penalty <= 10
    assert abs(sampling.presence_penalty) <= 2
    assert abs(sampling.frequency_penalty) <= 2
    assert all(token < VOCABULARY and abs(bias) <= 100 for token, bias in sampling.logit_bias)
    assert request.scope is None or 16 <= len(request.scope) <= 64
    assert all(1 <= len(stop.encode()) <= 256 for stop in request.stop)


def test_an_adapter_must_be_one_of_those_there_are() -> None:
    """The refusal names them; unset is the model as it is."""
    reader = make_reader(adapters=("pumps", "tone"))
    assert reader.read(pb.GenerateRequest(prompt="a", adapter="tone")).adapter == "tone"
    assert reader.read(pb.GenerateRequest(prompt="a")).adapter is None
    for each, have in ((reader, "pumps, tone"), (READER, "none")):
        with pytest.raises(RequestError) as refusal:
            each.read(pb.GenerateRequest(prompt="a", adapter="other"))
        assert str(refusal.value) == f"adapter: must be unset or one of those there are: {have}"


@pytest.mark.parametrize("asked", [{"deterministic": True}, {}])
def test_determinism_is_refused_where_it_cannot_be_had(asked: dict[str, bool]) -> None:
    """Whether the request asks for it or the daemon does for all; one that declines is served."""
    reader = replace(READER, exact=False, deterministic=not asked)
    with pytest.raises(RequestError, match="deterministic: must be"):
        reader.read(pb.GenerateRequest(prompt="abc", **asked))
    assert not reader.read(pb.GenerateRequest(prompt="abc", deterministic=False)).deterministic
