"""Fakes that implement the real interfaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
from chatml import MARKS
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from runtime.engine.tokenizer import Tokenizer
from runtime.errors import SessionError
from runtime.models.registry import Loader, Models
from runtime.models.repository import Repository
from runtime.sessions.session import Chunk, Logits, SessionSpec

Script = Callable[[tuple[int, ...]], int]
"""The token that follows a history of tokens."""


def count_up(history: tuple[int, ...]) -> int:
    """A model whose every next token is the sum of those before, modulo 251: any lost or foreign token shows."""
    return (sum(history) + len(history)) % 251


def repeat_mostly(history: tuple[int, ...]) -> int:
    """A model that says again what it said five tokens ago, and now and then something else."""
    return 1 + count_up(history) if sum(history) % 9 == 0 else history[-5:][0]


def with_adapter(token: int, place: int) -> int:
    """What a model that says `token` says instead with its adapter at `place`, the first at 1; 0 stays the end."""
    return 1 + (token - 1 + 7 * place) % 250 if token and place else token


class ScriptedSession:
    """A `Session` whose KV cache holds the tokens themselves, and whose model is a function of them.

    It checks what a real cache cannot: that every position is written once, in order, in a slot that was cleared, and
    all of a slot with one adapter.
    """

    def __init__(
        self,
        script: Script = count_up,
        *,
        vocab_size: int = 256,
        context_tokens: int = 256,
        slots: int = 4,
        adapters: tuple[str, ...] = (),
    ) -> None:
        self.spec = SessionSpec(
            vocab_size=vocab_size,
            context_tokens=context_tokens,
            slots=slots,
            kv_bytes_per_token=1,
            provider="CPUExecutionProvider",
            frees_kv=True,
        )
        self.cache: list[list[int]] = [[] for _ in range(slots)]
        self.adapters = adapters
        self._places = {None: 0, **{name: place for place, name in enumerate(adapters, 1)}}
        self._computed_with: list[str | None] = [None] * slots
        self.longest_chunk = 0
        self.most_logits = 0
        self.runs = 0
        self._guessed = [0] * slots
        self.fail_next: str | None = None
        self.during_run: Callable[[], None] = lambda: None
        self._script = script

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        self._maybe_fail()
        slots = [chunk.slot for chunk in chunks]
        assert slots == sorted(set(slots)), f"slots out of order: {slots}"
        self.most_logits = max(self.most_logits, *(chunk.logits for chunk in chunks))
        self.longest_chunk = max(self.longest_chunk, *(len(chunk.tokens) for chunk in chunks))
        self.runs += 1
        return np.array([its for chunk in chunks for its in self._compute(chunk, adapter)], np.float32)

    def _compute(self, chunk: Chunk, adapter: str | None) -> list[Logits]:
        """Logits after the last so many of its tokens."""
        slot = chunk.slot
        self._drop_guesses(slot, chunk.start)
        self._note_adapter(slot, adapter)
        assert 0 <= chunk.logits <= len(chunk.tokens)
        rows = []
        for token in chunk.tokens:
            self.cache[slot].append(int(token))
            rows.append(self._logits(slot))
        self._guessed[slot] = max(0, chunk.logits - 1)
        return rows[len(rows) - chunk.logits :]

    def copy(self, source: int, target: int, tokens: int) -> None:
        assert not self.cache[target], f"slot {target} was not cleared"
        assert 0 < tokens <= len(self.cache[source])
        self.cache[target] = self.cache[source][:tokens]
        self._computed_with[target] = self._computed_with[source]

    def clear(self, slot: int, keep: int = 0) -> None:
        assert keep <= len(self.cache[slot]), f"slot {slot} holds {len(self.cache[slot])}, not {keep}"
        del self.cache[slot][keep:]
        self._guessed[slot] = 0

    def _drop_guesses(self, slot: int, length: int) -> None:
        """Of the last run, those that turned out wrong: nothing else may be lost."""
        held = len(self.cache[slot])
        assert held - self._guessed[slot] <= length <= held, f"slot {slot} holds {held}, not {length}"
        del self.cache[slot][length:]
        self._guessed[slot] = 0

    def _note_adapter(self, slot: int, adapter: str | None) -> None:
        """What is in a slot was computed with one adapter."""
        assert not self.cache[slot] or self._computed_with[slot] == adapter, f"slot {slot} has KV of another adapter"
        self._computed_with[slot] = adapter

    def _logits(self, slot: int) -> Logits:
        row = np.zeros(self.spec.vocab_size, np.float32)
        token = self._script(tuple(self.cache[slot]))
        row[with_adapter(token, self._places[self._computed_with[slot]])] = 10.0
        return row

    def _maybe_fail(self) -> None:
        self.during_run()
        if self.fail_next is not None:
            message, self.fail_next = self.fail_next, None
            raise SessionError(message)


def byte_tokenizer() -> Tokenizer:
    """Token i is the byte that stands at place i of the byte-level alphabet."""
    return Tokenizer(_raw_bytes())


def marked_tokenizer() -> Tokenizer:
    """The same, and from 256 on the marks of a turn's parts."""
    raw = _raw_bytes()
    raw.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    return Tokenizer(raw)


def _raw_bytes() -> RawTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = RawTokenizer(models.BPE(vocab={symbol: at for at, symbol in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return raw


def no_models() -> Models:
    """A daemon's models: none, and no package that could become one."""

    def no_package(*_: object) -> NoReturn:
        raise AssertionError("there is no package")

    return Models(Repository(None), Loader(no_package, no_package, no_package, lambda: None))
