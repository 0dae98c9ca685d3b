"""YAML from outside is refused with its file and one line, whatever it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.yaml_file import read_yaml


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"\xff\xfe", "codec can't decode"),
        (b"a: b: c", "mapping values are not allowed here"),
        (b"!!python/object:os.system {}", "could not determine a constructor"),
        (b"[" * 5000, "maximum recursion depth"),
        (b"#" * (1 << 20) + b"\n", "it is larger than 1 MiB"),
        (b"since: 2026-99-99", "month must be in 1..12"),
        (b"a: 1\nb: 2\na: 3\n", "line 1: a is there more than once"),
        (b"in:\n- a: 1\n  b: {c: 1, c: 2}\n", "line 3: c is there more than once"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """A key that is there twice counts among that: one of the two would be lost, and nobody told."""
    file = tmp_path / "a.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        read_yaml(file, ConfigError)
    said = str(refused.value)
    assert said.startswith(f"{file}: cannot be read: ")
    assert reason in said
    assert said.isprintable()


@pytest.mark.parametrize(
    ("content", "data"),
    [
        ("", None),
        ("# nothing", None),
        ("\ufeffa: 1", {"a": 1}),
        ("1: a\n'1': b", {1: "a", "1": "b"}),
        ("a: &its {b: 1}\nc: {<<: *its, b: 2}", {"a": {"b": 1}, "c": {"b": 2}}),
    ],
)
def test_what_can_be_read(tmp_path: Path, content: str, data: object) -> None:
    """Equal in letters is not equal; what a merge brings may be said again."""
    file = tmp_path / "a.yaml"
    file.write_text(content, encoding="utf-8")
    assert read_yaml(file, ConfigError) == data
