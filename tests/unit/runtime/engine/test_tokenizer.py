"""Tokens to text, piece by piece: nothing is lost, doubled or cut inside a character, whatever the tokens are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from chatml import SPECIAL, raw_byte_tokenizer
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from runtime.engine.tokenizer import Detokenizer, Tokenizer

REPLACEMENT = "\ufffd"
CORPUS = ["naïve café, größe, €uro", "日本語のテキスト 日本", "🙂🙃🙂 👩‍👩‍👧", "the theme of the thesis"] * 3
BYTES = Tokenizer(raw_byte_tokenizer())


def _trained() -> Tokenizer:
    """A byte-level BPE with few merges, so that many tokens hold parts of characters."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(CORPUS, trainer)
    return Tokenizer(raw)


TRAINED = _trained()


@cache
def _qwen(shared: Path) -> Tokenizer:
    path = shared / "models/Qwen2.5-0.5B-Instruct/tokenizer.json"
    if not path.is_file():
        pytest.skip("needs Qwen2.5's tokenizer in ../shared/models")
    return Tokenizer.from_file(path)


def pieces_of(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*map(detokenizer.push, ids), detokenizer.flush()]


@given(st.text(max_size=60) | st.text(alphabet="é€日🙂\u200d\ufffda", max_size=60))
@example("\ufffd" * 21 + "€uro")
@example("\ufffd" * 90)
def test_pieces_are_the_text_in_whole_characters(text: str) -> None:
    """With a trained vocabulary the pieces join to the text, and none has a U+FFFD that the text has not."""
    pieces = pieces_of(TRAINED.detokenizer(), TRAINED.encode(text))
    assert "".join(pieces) == text
    assert REPLACEMENT in text or not any(REPLACEMENT in piece for piece in pieces)


@pytest.mark.parametrize("lead", range(18, 25))
@pytest.mark.parametrize("tail", ["é!", "€!", "🙂!"])
def test_a_character_across_the_windows_end_is_whole(lead: int, tail: str) -> None:
    """A long run of U+FFFD in the text does not break the character after it."""
    text = REPLACEMENT * lead + tail
    assert "".join(pieces_of(BYTES.detokenizer(), BYTES.encode(text))) == text


@given(st.binary(max_size=200) | st.lists(st.sampled_from([b"\x80", b"\xe2", b"\xf0\x9f", b"a"]), max_size=150))
def test_bytes_that_are_no_text_come_out_as_when_decoded_at_once(data: bytes | list[bytes]) -> None:
    """A model may write any bytes: the pieces join to the decoding of all of them."""
    ids = [_byte_id(value) for value in (data if isinstance(data, bytes) else b"".join(data))]
    assert "".join(pieces_of(BYTES.detokenizer(), ids)) == BYTES.decode(ids)


@cache
def _byte_id(value: int) -> int:
    """The token of one byte, by the alphabet of GPT-2's byte-level encoding."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    symbol = chr(value) if value in printable else chr(256 + others.index(value))
    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())].index(symbol)


@given(st.lists(st.integers(0, 339), max_size=60))
def test_any_tokens_join_to_their_decoding(ids: list[int]) -> None:
    """Special tokens and halves of characters in any order: the pieces join to `decode` of them all."""
    assert "".join(pieces_of(TRAINED.detokenizer(), ids)) == TRAINED.decode(ids)


@given(ids=st.lists(st.integers(0, 151_664), max_size=40))
def test_any_tokens_join_to_their_decoding_with_the_real_tokenizer(shared: Path, ids: list[int]) -> None:
    """The same holds for all of Qwen2.5's tokens."""
    tokenizer = _qwen(shared)
    assert "".join(pieces_of(tokenizer.detokenizer(), ids)) == tokenizer.decode(ids)


@given(text=st.text(alphabet="aé€日🙂 \n", max_size=40))
def test_real_tokens_come_out_in_whole_characters(shared: Path, text: str) -> None:
    """With Qwen2.5's tokenizer the pieces join to the text, and none has a U+FFFD."""
    tokenizer = _qwen(shared)
    pieces = pieces_of(tokenizer.detokenizer(), tokenizer.encode(text))
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)


def test_text_comes_out_with_its_last_token() -> None:
    """Nothing complete is held back: each ASCII byte comes at once, a character with its last byte."""
    assert pieces_of(BYTES.detokenizer(), BYTES.encode("a€b")) == ["a", "", "", "€", "b", ""]


def test_special_tokens_are_read_but_never_written() -> None:
    """`encode` recognizes them in a text and adds none; `decode` leaves them out."""
    ids = TRAINED.encode("<|im_start|>the<|im_end|>")
    assert (ids[0], ids[-1]) == (SPECIAL.index("<|im_start|>"), SPECIAL.index("<|im_end|>"))
    assert TRAINED.decode(ids) == "the"
    assert TRAINED.encode("") == []


def test_a_saved_tokenizer_is_the_same_one(tmp_path: Path) -> None:
    """A file written by tokenizers gives the same vocabulary and tokens."""
    raw_byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert loaded.vocab_size == BYTES.vocab_size == 259
    assert loaded.encode("größe") == BYTES.encode("größe")
