"""Answers that must have a structure: what comes out has it, and what is no structure is refused with its place."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import numpy as np
import pytest
from fakes import ScriptedSession, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.engine import Engine
from runtime.engine.grammar import MAX_STRUCTURE_BYTES, Grammars, Kind
from runtime.engine.sequence import Delta, Event, Failed, Finished, FinishReason, Request, SamplingParams
from runtime.engine.turn import TurnForm
from runtime.errors import GrammarError, RequestError

BYTES = byte_tokenizer()
EOS = 0  # the byte-level alphabet's first symbol is "!"
GRAMMARS = Grammars(BYTES, 256, frozenset({EOS}))
SCHEMA = {
    "type": "object",
    "properties": {"device": {"enum": ["pump", "valve"]}, "bar": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["device", "bar"],
    "additionalProperties": False,
}


class BabblingSession(ScriptedSession):
    """A model whose logits are noise of its history."""

    def _logits(self, slot: int) -> np.ndarray:
        return np.random.default_rng(self.cache[slot]).normal(size=self.spec.vocab_size).astype(np.float32)


def answer(kind: Kind, text: str, *, seed: int = 0, max_tokens: int = 120, temperature: float = 1.0) -> list[Event]:
    engine = Engine(
        BabblingSession(),
        BYTES,
        eos_token_ids=frozenset({EOS}),
        queue_limit=1,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
    )
    events: list[Event] = []
    sampling, grammar = SamplingParams(temperature=temperature, seed=seed), GRAMMARS.compile(kind, text)
    engine.submit(Request((7, 8, seed % 250), max_tokens, sampling, turn=TurnForm(answer=grammar)), events.append)
    while not engine.idle:
        engine.step()
    return events


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0]))
@settings(max_examples=30)
def test_a_babbling_model_writes_json_of_the_schema(seed: int, temperature: float) -> None:
    """Greedy or sampled; it ends where the object is complete, without an end-of-text token."""
    *deltas, end = answer("json_schema", json.dumps(SCHEMA), seed=seed, temperature=temperature)
    value = json.loads(text_of(deltas))
    assert value.keys() == {"device", "bar"}
    assert value["device"] in ("pump", "valve")
    assert 0 <= value["bar"] <= 99
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.EOS


def test_what_is_forced_takes_one_step() -> None:
    """Tokens that can be no others are computed together, and drawn from nothing."""
    session = BabblingSession()
    engine = Engine(
        session, BYTES, eos_token_ids=frozenset({EOS}), queue_limit=1, prefill_chunk_tokens=8, kv_budget_tokens=1000
    )
    events: list[Event] = []
    grammar = GRAMMARS.compile("regex", "abcdefghijkl(x|y)")
    engine.submit(Request((7,), 60, SamplingParams(temperature=1.0), turn=TurnForm(answer=grammar)), events.append)
    while not engine.idle:
        engine.step()
    assert re.fullmatch("abcdefghijkl[xy]", text_of(events))
    assert engine.stats().steps_total <= 4


@pytest.mark.parametrize(
    ("kind", "text", "pattern"),
    [
        ("regex", "[a-f]{4}-[0-9]{2}", "[a-f]{4}-[0-9]{2}"),
        ("regex", "(yes|no)( indeed)?", "(yes|no)( indeed)?"),
        ("grammar", 'start: "<" word ">"\nword: /[a-z]{2,5}/', "<[a-z]{2,5}>"),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_other_structures_are_kept_too(kind: Kind, text: str, pattern: str, seed: int) -> None:
    """An answer that may go on ends by the end-of-text token, which is not part of it."""
    *deltas, end = answer(kind, text, seed=seed)
    assert re.fullmatch(pattern, text_of(deltas).removesuffix("!"))
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.EOS


def test_max_tokens_cuts_an_answer_short() -> None:
    *deltas, end = answer("json_schema", json.dumps(SCHEMA), max_tokens=5)
    assert text_of(deltas) == '{"dev'
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        ("json_schema", "{", "json_schema: is not JSON"),
        ("json_schema", "[1]", "json_schema: must be a JSON object"),
        ("json_schema", '{"items": ' * 200 + "{}" + "}" * 200, "json_schema: is nested too deep"),
        ("json_schema", '{"items": ' * 900 + "{}" + "}" * 900, "json_schema: is nested too deep"),
        ("json_schema", '{"type": "objekt"}', "json_schema: Invalid type: objekt"),
        (
            "json_schema",
            '{"properties": {"a": {"items": {"anyOf": [{}, {"type": "strin"}]}}}}',
            'json_schema["properties"]["a"]["items"]["anyOf"][1]: Invalid type: strin',
        ),
        (
            "json_schema",
            '{"$defs": {"b": {"pattern": "("}}, "properties": {"a": {"$ref": "#/$defs/b"}}}',
            'json_schema["$defs"]["b"]',
        ),
        ("json_schema", '{"properties": {"a": {"$ref": "#/$defs/c"}}}', 'json_schema["properties"]["a"]'),
        ("regex", "(a", "regex: at 1(8)"),
        ("grammar", "start: nothing", 'grammar: at 1(8): unknown name: "nothing"'),
        ("grammar", "", "grammar: "),
        ("regex", "a" * (MAX_STRUCTURE_BYTES + 1), "regex: must be at most 65536 bytes"),
    ],
)
def test_what_is_no_structure_is_refused_with_its_place(kind: Kind, text: str, fault: str) -> None:
    with pytest.raises(RequestError) as refusal:
        GRAMMARS.compile(kind, text)
    assert str(refusal.value).startswith(fault)


@given(st.sampled_from(["json_schema", "regex", "grammar"]), st.text(max_size=60))
def test_any_text_is_a_structure_or_refused(kind: Kind, text: str) -> None:
    with suppress(RequestError):
        matcher = GRAMMARS.compile(kind, text).matcher()
        assert matcher.forced or matcher.allowed().any()


def test_a_structure_that_breaks_ends_its_request_alone() -> None:
    """A neighbour hears nothing of it."""

    class Breaking:
        forced: tuple[int, ...] = ()
        complete = False

        def matcher(self) -> Breaking:
            return self

        def allowed(self) -> np.ndarray:
            return np.ones(256, np.bool_)

        def accept(self, token: int) -> None:
            raise GrammarError("too deep")

    engine = Engine(
        ScriptedSession(),
        BYTES,
        eos_token_ids=frozenset(),
        queue_limit=2,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
    )
    broken: list[Event] = []
    whole: list[Event] = []
    engine.submit(Request((1, 2), 5, turn=TurnForm(answer=Breaking())), broken.append)
    engine.submit(Request((1, 2), 5), whole.append)
    while not engine.idle:
        engine.step()
    [end] = broken
    assert isinstance(end, Failed)
    assert (end.message, type(end.error)) == ("too deep", GrammarError)
    assert isinstance(whole[-1], Finished)
