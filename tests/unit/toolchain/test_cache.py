"""The build cache: a result is used again only as it was when it was made."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.cache import is_sound, seal, whole

CONTENTS = st.dictionaries(st.text("ab", min_size=1, max_size=3), st.binary(max_size=50), min_size=1, max_size=4)


def sealed(folder: Path, contents: dict[str, bytes]) -> Path:
    """With each file in a folder of its own."""
    for name, content in contents.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_bytes(content)
    seal(folder)
    return folder


@given(contents=CONTENTS, data=st.data())
def test_whatever_happens_to_a_sealed_file_is_seen(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes], data: st.DataObject
) -> None:
    """Other bytes, bytes that are missing, no file; what came later is nobody's business."""
    folder = sealed(tmp_path_factory.mktemp("cache") / "result", contents)
    (folder / "later").write_text("an evaluation")
    assert is_sound(folder)
    name = data.draw(st.sampled_from(sorted(contents)))
    after = data.draw(st.none() | st.binary(max_size=50).filter(lambda other: other != contents[name]))
    if after is None:
        (folder / name / "file").unlink()
    else:
        (folder / name / "file").write_bytes(after)
    assert not is_sound(folder)


@pytest.mark.parametrize("digests", [None, b"", b"[]", b"{", b'{"a": 1}', b"\xff"])
def test_what_has_no_seal_is_not_trusted(tmp_path: Path, digests: bytes | None) -> None:
    """As after a power cut before there were seals."""
    folder = sealed(tmp_path / "result", {"a": b"weights"})
    (folder / "digests.json").unlink()
    if digests is not None:
        (folder / "digests.json").write_bytes(digests)
    assert not is_sound(folder)
    assert not is_sound(tmp_path / "nothing")


def test_a_copy_is_sealed_as_what_it_has_become(tmp_path: Path) -> None:
    """The seal that it was copied with is not among its files."""
    folder = sealed(tmp_path / "result", {"a": b"weights"})
    (folder / "a" / "file").write_bytes(b"others")
    seal(folder)
    assert is_sound(folder)


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """And nothing beside it."""
    target = tmp_path / "kept.json"
    target.write_text("before")
    with suppress(ZeroDivisionError), whole(target) as unfinished:
        unfinished.write_text("half")
        raise ZeroDivisionError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept.json", "before")]
