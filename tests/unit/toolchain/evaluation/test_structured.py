"""Whether texts are JSON that fits a schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fakes import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.grammar import Grammars
from toolchain.evaluation.structured import Validator, tasks

TOKENIZER = byte_tokenizer()
VALIDATOR = Validator(Grammars(TOKENIZER, TOKENIZER.vocab_size, frozenset({2})), TOKENIZER)
PART = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["name", "sizes"],
    "additionalProperties": False,
}
PARTS = {"type": "array", "items": PART, "maxItems": 2}


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
    st.lists(st.integers(0, 99), max_size=3),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_what_fits_fits_however_it_is_written(name: str, sizes: list[int], indent: int | None, escaped: bool) -> None:
    """In any order of members, with any white space, escaped or not."""
    value = [{"sizes": sizes, "name": name}, {"name": name, "sizes": sizes}]
    assert VALIDATOR.fits(json.dumps(value, indent=indent, ensure_ascii=escaped), PARTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        '{"name": "a", "sizes": [1]',
        '{"name": "a", "sizes": [1]} and more',
        '```json\n{"name": "a", "sizes": [1]}\n```',
        '{"name": "a"}',
        '{"name": "a", "sizes": [100]}',
        '{"name": "a", "sizes": [1, 2, 3, 4]}',
        '{"name": "a", "sizes": ["1"]}',
        '{"name": "a", "sizes": [NaN]}',
        '{"name": "a much too long name", "sizes": []}',
        '{"name": "a", "sizes": [], "colour": "red"}',
        '["a"]',
        "7",
    ],
)
def test_what_does_not_fit_does_not(text: str) -> None:
    """Broken, within other text, or of another form."""
    assert not VALIDATOR.fits(text, PART)


def schemas_in(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schema and all that are in it."""
    yield schema
    for inner in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
        yield from schemas_in(inner)


def test_our_tasks_name_their_schemas_and_are_bounded() -> None:
    """A prompt shows the schema; no string, list or number in it can go on for ever."""
    bounds = {"string": {"maxLength"}, "array": {"maxItems"}, "integer": {"minimum", "maximum"}}
    for task in tasks():
        assert json.dumps(task.schema) in task.prompt
        VALIDATOR.grammar(task.schema)
        for inner in schemas_in(task.schema):
            assert bounds.get(str(inner.get("type")), set()) <= inner.keys()
