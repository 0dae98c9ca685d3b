"""Text to tokens and back, on Hugging Face's tokenizers; and back piece by piece, without splitting a character."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer

from ..errors import PackageError

_REPLACEMENT = "\ufffd"
_WINDOW_TOKENS = 64


class Tokenizer:
    """A package's tokenizer."""

    def __init__(self, raw: RawTokenizer) -> None:
        self._raw = raw

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Reads a `tokenizer.json`. Raises PackageError if it is not one."""
        try:
            return cls(RawTokenizer.from_file(str(path)))
        except Exception as error:  # tokenizers raises plain Exceptions
            raise PackageError(f"{path.name} is not a tokenizer: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included. The model may have more rows than this, for padding."""
        return int(self._raw.get_vocab_size(with_added_tokens=True))

    def token_id(self, token: str) -> int | None:
        """The id of a token by its spelling; None if there is none."""
        found: int | None = self._raw.token_to_id(token)
        return found

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Special tokens in it are recognized; none is added."""
        return list(self._raw.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, without special tokens."""
        return str(self._raw.decode(ids, skip_special_tokens=True))

    def to_json(self) -> str:
        """The whole of `tokenizer.json`."""
        return str(self._raw.to_str())

    def detokenizer(self) -> Detokenizer:
        """A fresh incremental detokenizer."""
        return Detokenizer(self)


class Detokenizer:
    """Turns tokens into text as they come: the pieces join to `Tokenizer.decode` of them all.

    A token may hold part of a character's UTF-8 bytes; text comes out when its last token is in. Only a window of
    tokens is decoded each time: those not emitted yet, and before them those whose text can change what follows.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._emitted = 0  # characters of the window's text that are out

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; may be empty."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        if text.endswith(_REPLACEMENT):
            return self._emit_all_but_the_last_character(text) if len(self._window) >= _WINDOW_TOKENS else ""
        piece = text[self._emitted :]
        self._window = self._window[-1:]
        self._emitted = len(self._tokenizer.decode(self._window))
        return piece

    def _emit_all_but_the_last_character(self, text: str) -> str:
        """Shortens a window that keeps ending in U+FFFD; tokens that the next may complete to a character stay."""
        for at in range(len(self._window) - 1, 0, -1):
            before = self._tokenizer.decode(self._window[:at])
            if before + self._tokenizer.decode(self._window[at:]) == text:  # no character is across
                piece = before[self._emitted :]
                self._window, self._emitted = self._window[at:], 0
                return piece
        return ""

    def flush(self) -> str:
        """What is left, an incomplete character as U+FFFD."""
        piece = self._tokenizer.decode(self._window)[self._emitted :]
        self._window, self._emitted = [], 0
        return piece
