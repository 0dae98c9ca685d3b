"""What was measured is kept whole, found again by the same package and processor, and by nobody else."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.board.cpu import Cpu
from runtime.board.localsettings import LocalSettings, LocalSettingsFile, describe_packed
from runtime.board.tuning import Threads
from runtime.errors import LocalSettingsError

DIGEST, OTHER_DIGEST = "a" * 64, "b" * 64
CPU = Cpu("0x41 8 0x4 0xd0b 1", (1024,) * 4)


def settings(**changes: object) -> LocalSettings:
    given: dict[str, object] = {
        "build_digest": DIGEST,
        "cpu": CPU.identity,
        "threads": 4,
        "slots": 6,
        "token_cost": 0.2,
    }
    return LocalSettings.model_validate(given | changes)


def file_in(folder: Path, digest: str = DIGEST, cpu: Cpu = CPU) -> LocalSettingsFile:
    return LocalSettingsFile(folder, digest, cpu)


def written(folder: Path, **changes: object) -> LocalSettingsFile:
    file = file_in(folder)
    file.require_writable()
    file.write(settings(**changes))
    return file


def packed_in(file: LocalSettingsFile) -> LocalSettings:
    """Settings that name a packed graph, which is there."""
    folder = file.make_folder()
    for name in ("serving.onnx", "packed.data"):
        (folder / name).write_bytes(name.encode())
    return settings(packed=describe_packed(folder / "serving.onnx", Threads(4, 2)))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """The last that was written, also as the first of its folder; nothing else is left there."""
    file = written(tmp_path / "state", threads=2)
    file.write(settings(threads=3))
    assert file_in(tmp_path / "state").read() == settings(threads=3)
    assert [path.name for path in file.path.parent.iterdir()] == [file.path.name]


@pytest.mark.parametrize(
    ("digest", "cpu"),
    [(OTHER_DIGEST, CPU), (DIGEST, Cpu("0x41 8 0x4 0xd0b 1", (1024,) * 2)), (DIGEST, Cpu("other", (1024,) * 4))],
)
def test_others_have_none(tmp_path: Path, digest: str, cpu: Cpu) -> None:
    """Another package, fewer cores or another processor find nothing; a file that was moved to them is refused."""
    file, other = written(tmp_path), file_in(tmp_path, digest, cpu)
    assert other.read() is None
    other.path.write_bytes(file.path.read_bytes())
    with pytest.raises(LocalSettingsError, match="another package or processor"):
        other.read()


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_whatever_the_file_holds_it_is_refused_in_one_way(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = file_in(tmp_path_factory.mktemp("state"))
    file.require_writable()
    file.path.write_bytes(content)
    with pytest.raises(LocalSettingsError):
        file.read()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"threads": 0}, "threads: must be >= 1"),
        ({"slots": 65}, "slots: must be <= 64"),
        ({"token_cost": 0.0}, "token_cost: must be >= 0.01"),
        ({"extra": 1}, "extra: is not a known key"),
    ],
)
def test_a_value_that_cannot_be_is_named(tmp_path: Path, change: dict[str, object], fault: str) -> None:
    file = written(tmp_path)
    file.path.write_text(json.dumps(json.loads(file.path.read_text()) | change))
    with pytest.raises(LocalSettingsError, match=fault):
        file.read()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    """Before anything is measured."""
    (tmp_path / "file").touch()
    with pytest.raises(LocalSettingsError, match=r"cannot write to .*: run as the daemon's user or as root"):
        file_in(tmp_path / "file").require_writable()


def test_a_write_that_fails_leaves_the_old_settings(tmp_path: Path) -> None:
    """The graph that the new ones name is not there."""
    file = written(tmp_path)
    lost = packed_in(file)
    assert lost.packed is not None
    for path in (file.path.parent / lost.packed.folder).iterdir():
        path.unlink()
    (file.path.parent / lost.packed.folder).rmdir()
    with pytest.raises(LocalSettingsError):
        file.write(lost)
    assert file.read() == settings()


def test_a_packed_graph_stays_as_long_as_it_is_named(tmp_path: Path) -> None:
    """Those of earlier settings and of attempts that failed go; those of other packages do not."""
    file, other = written(tmp_path), file_in(tmp_path, OTHER_DIGEST)
    foreign = other.make_folder()
    first, abandoned = packed_in(file), packed_in(file)
    assert first.packed is not None
    assert abandoned.packed is not None
    file.write(first)
    assert file.read() == first
    assert file.packed_graph(first.packed).read_bytes() == b"serving.onnx"
    assert not file.packed_graph(abandoned.packed).exists()
    file.write(settings())
    assert not file.packed_graph(first.packed).exists()
    assert foreign.is_dir()


def test_a_packed_graph_is_only_for_the_onnxruntime_that_wrote_it(tmp_path: Path) -> None:
    """Another one takes the number of threads that suits both."""
    file = written(tmp_path)
    file.write(packed_in(file))
    text = file.path.read_text()
    file.path.write_text(text.replace(f'"{version("onnxruntime")}"', '"1.2.3"'))
    assert file.read() == settings()


@pytest.mark.parametrize("verify", [True, False])
def test_a_packed_graph_that_has_changed_is_refused(tmp_path: Path, verify: bool) -> None:
    """By its digest; without verification still by its size."""
    file = written(tmp_path)
    file.write(with_graph := packed_in(file))
    assert with_graph.packed is not None
    weights = file.packed_graph(with_graph.packed).with_name("packed.data")
    weights.write_bytes(b"Packed.data")
    if verify:
        with pytest.raises(LocalSettingsError, match=r"packed\.data is corrupt"):
            file.read()
    else:
        assert file.read(verify=False) == with_graph
    weights.write_bytes(b"")
    with pytest.raises(LocalSettingsError, match="is not there as it was written"):
        file.read(verify=verify)


def test_no_path_leads_out_of_the_folder(tmp_path: Path) -> None:
    """The names in the file are plain."""
    file = written(tmp_path)
    content = json.loads(packed_in(file).model_dump_json())
    for place, name in (("folder", "../elsewhere"), ("files", {"../x": {"sha256": "0" * 64, "size_bytes": 0}})):
        file.path.write_text(json.dumps(content | {"packed": content["packed"] | {place: name}}))
        with pytest.raises(LocalSettingsError, match="packed"):
            file.read()


def test_the_daemon_may_be_another_user(tmp_path: Path) -> None:
    """Whoever measured, anybody can read it."""
    mask = os.umask(0o077)
    try:
        file = written(tmp_path)
        folder = file.make_folder()
    finally:
        os.umask(mask)
    assert file.path.stat().st_mode & 0o777 == 0o644
    assert folder.stat().st_mode & 0o777 == 0o755
