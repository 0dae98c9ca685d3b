"""What an answer has to look like: a JSON schema, regular expression or grammar, kept token by token by llguidance.

The only door to llguidance. Its index of a vocabulary takes a second and about 0.13 GB for 150,000 tokens, so it is
made for the first request that asks for a structure. Which tokens may come next is computed in a thread of its own,
while the model runs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from ..errors import Fault, GrammarError, RequestError
from .tokenizer import Tokenizer

Kind = Literal["json_schema", "regex", "grammar"]
Way = tuple[str | int, ...]

MAX_STRUCTURE_BYTES = 1 << 16
# No other white space than models write: so most commas, colons and keys are forced, and need no sampling.
_JSON: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_DEFINITIONS = ("$defs", "definitions")
_HOLD_SCHEMA = ("items", "additionalProperties", "not", "if", "then", "else")
# Definitions come first: a schema that refers to a wrong one is not wrong by itself.
_HOLD_SCHEMAS = (*_DEFINITIONS, "anyOf", "oneOf", "allOf", "prefixItems", "properties", "patternProperties")


class Grammars:
    """Compiles structures for one model.

    Args:
        vocab_size: length of its rows of logits.
        eos_token_ids: tokens that may end a finished answer.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._tokenizer, self._vocab_size, self._eos = tokenizer, vocab_size, sorted(eos_token_ids)
        self._made: LLTokenizer | None = None
        self._making = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="masks")

    def compile(self, kind: Kind, text: str) -> CompiledGrammar:
        """Raises RequestError if `text` is no such structure; the fault says where."""
        if kind == "json_schema":
            return self._compiled(kind, _of_schema(read_schema(kind, text)))
        _require_small(kind, text)
        source = LLMatcher.grammar_from_regex(text) if kind == "regex" else LLMatcher.grammar_from_lark(text)
        if wrong := _fault(source):
            raise RequestError([Fault(kind, wrong)])
        return self._compiled(kind, source)

    def calls(self, path: str, parameters: Mapping[str, Mapping[str, object]], close: int) -> CompiledGrammar:
        """What follows the mark that opens a call, as Qwen's templates have it, up to the mark `close`.

        Args:
            path: of the tools in the request, for faults.
            parameters: by the name of the tool, the schema of its arguments, as `read_schema` gave it.
            close: its token.
        """
        rules = [f'start: "\\n" ({" | ".join(f"call_{at}" for at in range(len(parameters)))}) "\\n" <[{close}]>']
        for at, (name, schema) in enumerate(parameters.items()):
            begin = json.dumps(f'{{"name": "{name}", "arguments": ')
            closed = {"additionalProperties": False} if "properties" in schema else {}  # unless the tool says otherwise
            rules.append(f'call_{at}: {begin} arguments_{at} "}}"')
            rules.append(f"arguments_{at}: %json {json.dumps({**closed, **schema, 'x-guidance': _JSON})}")
        return self._compiled(path, LLMatcher.grammar_from_lark("\n".join(rules)))

    def _compiled(self, path: str, source: str) -> CompiledGrammar:
        start = LLMatcher(self._index(), source, log_level=0)
        if start.is_error():  # such as a token that this vocabulary does not have
            raise RequestError([Fault(path, _line(start.get_error()))])
        return CompiledGrammar(start, self._vocab_size, self._pool)

    def _index(self) -> LLTokenizer:
        with self._making:
            if self._made is None:
                self._made = LLTokenizer(self._tokenizer.to_json(), n_vocab=self._vocab_size, eos_token=self._eos)
            return self._made


class CompiledGrammar:
    """A structure that answers can be held to, each with a matcher of its own."""

    def __init__(self, start: LLMatcher, vocab_size: int, pool: ThreadPoolExecutor) -> None:
        self._start, self._vocab_size, self._pool = start, vocab_size, pool

    def matcher(self) -> GrammarMatcher:
        return GrammarMatcher(self._start.deep_copy(), self._vocab_size, self._pool)


class GrammarMatcher:
    """How far one answer has come in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, pool: ThreadPoolExecutor) -> None:
        self._matcher, self._vocab_size, self._pool = matcher, vocab_size, pool
        self.forced: tuple[int, ...] = ()
        """The tokens that must come next, as far as there is one way to write them."""
        self.complete = False
        """Whether nothing more may come."""
        self._mask: Future[NDArray[np.bool_]] | None = None
        self._look_ahead()

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, bool `[vocab]`. Waits for them if they are still computed.

        Raises GrammarError if the grammar has come to a limit of llguidance.
        """
        assert self._mask is not None
        return self._mask.result()

    def accept(self, token: int) -> None:
        """Takes the next token. Raises GrammarError if the grammar has come to a limit of llguidance."""
        if not self._matcher.consume_token(token):
            raise GrammarError(f"no answer can be held to it any further: {_reason(self._matcher)}")
        self.complete = self._matcher.is_stopped()
        self.forced = self.forced[1:]
        if not self.forced and not self.complete:
            self._look_ahead()

    def _look_ahead(self) -> None:
        self.forced = tuple(self._matcher.compute_ff_tokens())
        if not self.forced:
            self._mask = self._pool.submit(self._compute)

    def _compute(self) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").astype(np.bool_)
        if self._matcher.is_error() or not mask.any():
            raise GrammarError(f"no answer can be held to it any further: {_reason(self._matcher)}")
        return mask


def read_schema(path: str, text: str) -> object:
    """A JSON schema that answers can be held to. Raises RequestError with where in it something is wrong."""
    _require_small(path, text)
    try:
        schema: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError([Fault(path, f"is not JSON: {error}")]) from error
    if not isinstance(schema, dict | bool):
        raise RequestError([Fault(path, "must be a JSON object")])
    try:
        wrong = _fault(_of_schema(schema))
    except (ValueError, RecursionError) as error:  # llguidance reads at most 127 levels
        raise RequestError([Fault(path, f"is nested too deep: {error}")]) from error
    if wrong:
        place, reason = _innermost_fault(schema, ())
        way = "".join(f"[{json.dumps(each)}]" for each in place)
        raise RequestError([Fault(f"{path}{way}", reason)])
    return schema


def _require_small(path: str, text: str) -> None:
    if len(text.encode()) > MAX_STRUCTURE_BYTES:
        raise RequestError([Fault(path, f"must be at most {MAX_STRUCTURE_BYTES} bytes")])


def _of_schema(schema: object) -> str:
    return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=_JSON))


def _fault(source: str) -> str | None:
    wrong, messages = LLMatcher.validate_grammar_with_warnings(source)
    return _line(messages[0]) if wrong else None


def _reason(matcher: LLMatcher) -> str:
    """Without what llguidance adds of its state, which has the text of the answer."""
    return _line(matcher.get_error().partition("<state>")[0]) or "nothing may follow"


def _line(message: str) -> str:
    return " ".join(message.split())[:300]


def _innermost_fault(schema: object, place: Way) -> tuple[Way, str]:
    """Where a wrong schema is wrong: in the innermost schema of it that is wrong by itself, and why it is."""
    definitions = {key: schema[key] for key in _DEFINITIONS if key in schema} if isinstance(schema, dict) else {}
    for way, inner in _inner_schemas(schema):
        alone = {**definitions, **inner} if way[0] not in _DEFINITIONS and isinstance(inner, dict) else inner
        if _fault(_of_schema(alone)):
            return _innermost_fault(alone, (*place, *way))
    return place, _fault(_of_schema(schema)) or "is no JSON schema"


def _inner_schemas(schema: object) -> Iterator[tuple[Way, object]]:
    if not isinstance(schema, dict):
        return
    for key in _HOLD_SCHEMAS:
        held = schema.get(key)
        items = held.items() if isinstance(held, Mapping) else enumerate(held) if isinstance(held, list) else ()
        yield from (((key, at), inner) for at, inner in items if isinstance(inner, dict))
    for key in _HOLD_SCHEMA:
        if isinstance(schema.get(key), dict):
            yield (key,), schema[key]
