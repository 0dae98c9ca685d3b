"""Text in and out: tokenizer, detokenizer, stop strings, chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatml import CHATML, raw_byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer

from runtime.engine.stop import StopMatcher
from runtime.engine.tokenizer import Tokenizer
from runtime.errors import PackageError, RequestError
from runtime.requests.chat import ChatMessage, ChatTemplate

BYTES = Tokenizer(raw_byte_tokenizer())


@given(st.text(max_size=60))
def test_pieces_join_to_the_text_and_split_no_character(text: str) -> None:
    """One token per byte: every piece is whole characters, and none is lost."""
    detokenizer = BYTES.detokenizer()
    pieces = [detokenizer.push(token) for token in BYTES.encode(text)]
    assert "".join(pieces) + detokenizer.flush() == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_an_incomplete_character_comes_out_at_the_end() -> None:
    """The first two bytes of a three-byte character: nothing, then U+FFFD."""
    detokenizer = BYTES.detokenizer()
    assert [detokenizer.push(token) for token in BYTES.encode("€")[:2]] == ["", ""]
    assert set(detokenizer.flush()) == {"\ufffd"}


@given(text=st.text(max_size=40))
def test_pieces_join_to_the_text_with_the_real_tokenizer(shared: Path, text: str) -> None:
    """Qwen2.5's own vocabulary, where tokens hold parts of characters."""
    tokenizer = Tokenizer(_qwen(shared))
    ids, detokenizer = tokenizer.encode(text), tokenizer.detokenizer()
    pieces = [detokenizer.push(token) for token in ids]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids)


_LOADED: dict[Path, RawTokenizer] = {}


def _qwen(shared: Path) -> RawTokenizer:
    if shared not in _LOADED:
        _LOADED[shared] = RawTokenizer.from_file(str(shared / "models/Qwen2.5-0.5B-Instruct/tokenizer.json"))
    return _LOADED[shared]


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(PackageError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), max_size=30),
)
def test_stop_strings_are_found_wherever_the_text_is_cut(text: str, stops: list[str], sizes: list[int]) -> None:
    """The text up to the first stop string, and which it was, are those of a search in the whole text."""
    places = [(text.find(stop) + len(stop), stop) for stop in stops if stop in text]
    matcher, out, found, at = StopMatcher(tuple(stops)), "", None, 0
    for size in [*sizes, *[1] * len(text)]:
        piece, found = matcher.push(text[at : at + size])
        out, at = out + piece, at + size
        if found or at >= len(text):
            break
    if not places:
        assert (out + matcher.flush(), found) == (text, None)
    else:
        assert found in stops
        assert text.startswith(out + found)
        assert not any(stop in out for stop in stops)


def test_nothing_is_held_back_that_cannot_begin_a_stop() -> None:
    """Streaming stays as fine as it can."""
    matcher = StopMatcher(("\n\nUser:",))
    assert matcher.push("Hello.") == ("Hello.", None)
    assert matcher.push("\n") == ("", None)
    assert matcher.push("Next") == ("\nNext", None)


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <b>&"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Täglich?"},
]


@pytest.mark.parametrize("model", ["Qwen2.5-0.5B-Instruct", "Qwen3-0.6B"])
@pytest.mark.parametrize("turns", [slice(0, 4), slice(1, 2), slice(0, 2)])
def test_real_templates_render_as_in_transformers(shared: Path, model: str, turns: slice) -> None:
    """With and without a system message, and over several turns."""
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(shared / "models" / model)
    template = ChatTemplate(tokenizer.chat_template, eos_token=tokenizer.eos_token)
    expected = tokenizer.apply_chat_template(CONVERSATION[turns], tokenize=False, add_generation_prompt=True)
    assert template.render([ChatMessage(**turn) for turn in CONVERSATION[turns]]) == expected


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([], "chat.messages: must hold at least one message"),
        (
            [ChatMessage("user", "a"), ChatMessage("robot", "b")],
            "chat.messages[1].role: must be one of system, user, assistant, tool (got 'robot')",
        ),
        ([ChatMessage("user", "a")] * 1025, "chat.messages: must hold at most 1024 messages (got 1025)"),
    ],
)
def test_conversations_that_make_no_sense_are_refused(messages: list[ChatMessage], fault: str) -> None:
    with pytest.raises(RequestError) as refusal:
        ChatTemplate(CHATML).render(messages)
    assert str(refusal.value) == fault


def test_a_template_is_in_a_sandbox() -> None:
    """A hostile checkpoint reaches neither Python's internals nor another message."""
    escape = ChatTemplate("{{ messages.__class__.__mro__ }}")
    with pytest.raises(RequestError, match="refuses"):
        escape.render([ChatMessage("user", "a")])


def test_a_template_may_refuse_and_a_broken_one_is_the_packages_fault() -> None:
    with pytest.raises(RequestError, match="no system message, please"):
        ChatTemplate("{{ raise_exception('no system message, please') }}").render([ChatMessage("user", "a")])
    with pytest.raises(PackageError, match="broken"):
        ChatTemplate("{% for %}")
