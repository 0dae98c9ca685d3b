"""Whether a model answers in JSON that fits a schema, asked to and left free, or held to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import yaml

from runtime.engine.grammar import CompiledGrammar, Grammars
from runtime.engine.tokenizer import Tokenizer
from runtime.errors import GrammarError

Json = object


@dataclass(frozen=True)
class Task:
    """A question whose answer is to fit `schema`."""

    question: str
    schema: Mapping[str, Json]

    @property
    def prompt(self) -> str:
        """The question with the schema, as people write it."""
        return f"{self.question} Answer with nothing but JSON of this schema: {json.dumps(self.schema)}"


def tasks() -> list[Task]:
    """Ours. Every length and number in their schemas is bounded, so an answer that is held to one ends."""
    text = resources.files("toolchain").joinpath("data", "schemas.yaml").read_text(encoding="utf-8")
    return [Task(each["question"], each["schema"]) for each in yaml.safe_load(text)]


class Validator:
    """Says whether texts are JSON that fits schemas, by the grammars that answers are held to.

    Those know one way of writing a value, so it is written again in that before it is checked.
    """

    def __init__(self, grammars: Grammars, tokenizer: Tokenizer) -> None:
        self._grammars, self._tokenizer = grammars, tokenizer

    def grammar(self, schema: Mapping[str, Json]) -> CompiledGrammar:
        """What holds an answer to the schema."""
        return self._grammars.compile("json_schema", json.dumps(schema))

    def fits(self, text: str, schema: Mapping[str, Json]) -> bool:
        """Whether the whole of `text` is a JSON value of the schema."""
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        written = json.dumps(_in_order(value, schema), ensure_ascii=False).replace("\x7f", "\\u007f")
        matcher = self.grammar(schema).matcher()
        try:
            for token in self._tokenizer.encode(written):
                if matcher.complete:
                    return False
                if not matcher.forced:
                    matcher.allowed()  # computed in a thread of its own, before which the matcher takes no token
                matcher.accept(token)
        except GrammarError:
            return False
        return matcher.complete


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is not JSON")


def _in_order(value: Json, schema: Json) -> Json:
    """The same value, with the members of objects in the order that the schema lists them."""
    if not isinstance(schema, dict):
        return value
    if isinstance(value, list):
        return [_in_order(item, schema.get("items")) for item in value]
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        listed = [name for name in properties if name in value]
        others = [name for name in value if name not in properties]
        return {name: _in_order(value[name], properties.get(name)) for name in (*listed, *others)}
    return value
