"""Calibration text: written by the model, or the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chatml import raw_byte_tokenizer
from fakes import ScriptedSession
from tiny import byte_tokenizer

from runtime.errors import SourceError
from toolchain import calibrate
from toolchain.graphs.kvscales import calibration_tokens

VOCABULARY = 259


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("checkpoint")
    byte_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    return folder


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def write(checkpoint: Path, out: Path) -> list[tuple[int, int]]:
    """Lets a session that checks its own use write the text; returns the progress that was reported."""
    progress: list[tuple[int, int]] = []
    session = ScriptedSession(vocab_size=VOCABULARY, context_tokens=calibrate.CONTEXT_TOKENS, slots=calibrate.ROWS)
    calibrate.write_calibration(session, checkpoint, out, on_tokens=lambda *done: progress.append(done))
    assert not any(session.cache), "every slot is given back"
    return progress


def test_the_model_writes_the_same_text_again(checkpoint: Path, tmp_path: Path) -> None:
    """As many texts as asked for, each from an opening of ours, and to the last byte the same the second time."""
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    progress = write(checkpoint, first)
    write(checkpoint, second)
    assert first.read_bytes() == second.read_bytes()
    written = texts(first)
    assert len(written) == calibrate.SAMPLES
    assert written[0].startswith("The")
    assert written[-1].startswith("<|im_start|>user\n")
    total = calibrate.SAMPLES * calibrate.TOKENS
    assert progress == sorted(progress)
    assert progress[-1] == (total, total)


def test_the_users_text_is_taken(tmp_path: Path) -> None:
    """Paragraphs of a text file, or `text` of each JSON line."""
    plain, lines, out = tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "out.jsonl"
    plain.write_text("One\nparagraph.\n\n\nAnother, with ü.\n", encoding="utf-8")
    calibrate.read_calibration(plain, out)
    assert [text.strip() for text in texts(out)] == ["One\nparagraph.", "Another, with ü."]
    lines.write_text('{"text": "a", "id": 1}\n\n{"text": "b"}\n')
    calibrate.read_calibration(lines, out)
    assert texts(out) == ["a", "b"]


def test_a_text_may_hold_any_character(tmp_path: Path) -> None:
    """Also those that Python takes for the end of a line and JSON does not."""
    given, out, tokenizer = tmp_path / "a.jsonl", tmp_path / "out.jsonl", tmp_path / "tokenizer.json"
    written = "".join(map(chr, [*range(0xA0), 0x2028, 0x2029]))
    given.write_text(json.dumps({"text": written}, ensure_ascii=False) + "\n", encoding="utf-8")
    calibrate.read_calibration(given, out)
    raw_byte_tokenizer().save(str(tokenizer))
    [tokens] = calibration_tokens(out, tokenizer)
    assert len(tokens) == len(written.encode())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b" \n\n "),
        ("a.txt", b"\xff\xfe"),
        ("a.jsonl", b"not json"),
        ("a.jsonl", b'{"no": "text"}'),
        ("b", None),
    ],
)
def test_what_holds_no_text_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    """Empty, not UTF-8, not JSON lines, or not there: an error that names the file, and nothing written."""
    file, out = tmp_path / name, tmp_path / "out.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SourceError, match=name):
        calibrate.read_calibration(file, out)
    assert not out.exists()
