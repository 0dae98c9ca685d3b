"""Layouts: what is exported can be fetched, several packages are in one, and no damage goes unseen."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oras.layout import NewLayout
from unit.runtime.oci.remotes import WEIGHTS, contents_from, files_of, package_with

from runtime.disk import LocalDisk
from runtime.errors import PackageCorrupt, PackageError, PackageNotThere, TransferError
from runtime.oci.fetching import fetch
from runtime.oci.opening import open_source
from runtime.oci.reference import LayoutReference, parse_reference
from runtime.oci.settings import Settings
from runtime.oci.source import Source
from toolchain.progress import Reporter
from toolchain.publishing.export import Exported, export
from toolchain.publishing.publication import read_publication


def exported(package: Path, layout: Path, tag: str | None = None) -> Exported:
    reporter = Reporter(io.StringIO())
    return export(read_publication(package, reporter), layout, tag, reporter)


def source_of(layout: Path, tag: str | None = None) -> Source:
    return open_source(LayoutReference(layout, tag), Settings())


def fetched(source: Source, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    fetch(source, contents_from(source), folder / "p", LocalDisk())
    return files_of(folder / "p")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(weights=st.binary(max_size=300), config=st.binary(max_size=300))
def test_what_was_exported_can_be_fetched(
    tmp_path_factory: pytest.TempPathFactory, weights: bytes, config: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    package = package_with(folder / "p", {WEIGHTS: weights, "configs/config.json": config})
    exported(package, folder / "usb")
    assert fetched(source_of(folder / "usb"), folder / "incoming") == files_of(package)


def test_doing_it_twice_changes_nothing(tmp_path: Path) -> None:
    package = package_with(tmp_path / "p", {WEIGHTS: b"weights"})
    first = exported(package, tmp_path / "usb")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "usb").rglob("*")}
    again = exported(package, tmp_path / "usb")
    assert (first.tag, first.changed, again.changed, again.written_bytes) == ("tiny-1.0.0", True, False, 0)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "usb").rglob("*")}


def test_several_packages_are_in_one_layout_and_share_what_is_equal(tmp_path: Path) -> None:
    """Each by its tag; without one there is no telling which."""
    one = package_with(tmp_path / "one", {WEIGHTS: b"weights" * 100})
    two = package_with(tmp_path / "two", {WEIGHTS: b"weights" * 100, "configs/more.json": b"{ }"})
    exported(one, tmp_path / "usb", "stable")
    second = exported(two, tmp_path / "usb", "next")
    assert second.present_bytes > 700
    assert fetched(source_of(tmp_path / "usb", "stable"), tmp_path / "1") == files_of(one)
    assert fetched(source_of(tmp_path / "usb", "next"), tmp_path / "2") == files_of(two)
    with pytest.raises(PackageNotThere, match=r"has several packages, name one as .*; it has next, stable"):
        source_of(tmp_path / "usb").offers()
    with pytest.raises(PackageNotThere, match="has no older; it has next, stable"):
        source_of(tmp_path / "usb", "older").offers()


def test_a_tag_moves_and_what_others_wrote_stays(tmp_path: Path) -> None:
    """Entries of other tools are left as they are."""
    exported(package_with(tmp_path / "one", {}), tmp_path / "usb", "stable")
    index = tmp_path / "usb/index.json"
    said = json.loads(index.read_text())
    foreign = {"mediaType": "application/x", "digest": f"sha256:{'0' * 64}", "size": 3, "urls": ["https://a.example"]}
    index.write_text(json.dumps({**said, "manifests": [*said["manifests"], foreign]}))
    two = package_with(tmp_path / "two", {WEIGHTS: b"weights"})
    assert exported(two, tmp_path / "usb", "stable").changed
    assert foreign in json.loads(index.read_text())["manifests"]
    assert fetched(source_of(tmp_path / "usb", "stable"), tmp_path / "incoming") == files_of(two)


def test_another_tool_takes_it_for_a_layout(tmp_path: Path) -> None:
    """oras validates its files; every blob is called by its digest."""
    exported(package_with(tmp_path / "p", {"configs/config.json": b"{}"}, "a", "b"), tmp_path / "usb")
    NewLayout(str(tmp_path / "usb"))
    for path in (tmp_path / "usb/blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_a_blob_that_wore_out_is_written_again(tmp_path: Path) -> None:
    """And a device that meets it refuses it."""
    package = package_with(tmp_path / "p", {WEIGHTS: b"weights"})
    exported(package, tmp_path / "usb")
    blob = tmp_path / "usb/blobs/sha256" / hashlib.sha256(b"weights").hexdigest()
    blob.write_bytes(b"weightz")
    with pytest.raises(PackageCorrupt, match="has something else in the place of"):
        fetched(source_of(tmp_path / "usb"), tmp_path / "1")
    assert not exported(package, tmp_path / "usb").changed
    assert fetched(source_of(tmp_path / "usb"), tmp_path / "2") == files_of(package)


def test_a_stick_that_lacks_a_file_is_said(tmp_path: Path) -> None:
    exported(package_with(tmp_path / "p", {WEIGHTS: b"weights"}), tmp_path / "usb")
    (tmp_path / "usb/blobs/sha256" / hashlib.sha256(b"weights").hexdigest()).unlink()
    with pytest.raises(PackageError, match=r"there is no .*: it was not copied whole"):
        fetched(source_of(tmp_path / "usb"), tmp_path / "1")


def test_a_link_on_a_stick_is_not_followed(tmp_path: Path) -> None:
    """Whoever made the stick does not choose which files of the device are read."""
    exported(package_with(tmp_path / "p", {WEIGHTS: b"weights"}), tmp_path / "usb")
    blob = tmp_path / "usb/blobs/sha256" / hashlib.sha256(b"weights").hexdigest()
    secret = tmp_path / "secret"
    secret.write_bytes(b"weights")
    blob.unlink()
    blob.symlink_to(secret)
    with pytest.raises(TransferError, match="cannot read"):
        fetched(source_of(tmp_path / "usb"), tmp_path / "1")


def test_a_link_in_the_place_of_what_is_written_is_not_followed(tmp_path: Path) -> None:
    """Whoever made the stick does not choose which files of the build host are written."""
    package = package_with(tmp_path / "p", {WEIGHTS: b"weights"})
    exported(package, tmp_path / "usb", "one")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    blob = tmp_path / "usb/blobs/sha256" / hashlib.sha256(b"weights").hexdigest()
    blob.unlink()
    for path in (blob.with_name(f"{blob.name}.new"), tmp_path / "usb/index.json.new"):
        path.symlink_to(precious)
    assert exported(package, tmp_path / "usb", "two").changed
    assert precious.read_text() == "mine"
    assert fetched(source_of(tmp_path / "usb", "two"), tmp_path / "incoming") == files_of(package)


@pytest.mark.parametrize("left", [["oci-layout.new"], ["oci-layout"], ["oci-layout", "index.json.new"]])
def test_a_layout_that_was_cut_at_its_begin_is_gone_on_with(tmp_path: Path, left: list[str]) -> None:
    """And what was half written of a blob goes, whichever it was."""
    package = package_with(tmp_path / "p", {WEIGHTS: b"weights"})
    (tmp_path / "usb").mkdir()
    for name in left:
        (tmp_path / "usb" / name).write_text('{"imageLayoutVersion": "1.0.0"}')
    assert exported(package, tmp_path / "usb").changed
    (tmp_path / "usb/blobs/sha256/00.new").write_bytes(b"half")
    exported(package, tmp_path / "usb")
    assert not list((tmp_path / "usb").rglob("*.new"))
    assert fetched(source_of(tmp_path / "usb"), tmp_path / "incoming") == files_of(package)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    """What operating systems leave on an empty stick is not something else."""
    package = package_with(tmp_path / "p", {})
    (tmp_path / "usb/System Volume Information").mkdir(parents=True)
    assert exported(package, tmp_path / "usb").changed
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letters.txt").touch()
    with pytest.raises(TransferError, match="is neither empty nor an OCI image layout"):
        exported(package, tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letters.txt"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    package = package_with(tmp_path / "p", {})
    (tmp_path / "file").touch()
    with pytest.raises(TransferError, match=r"cannot write to .*: is it there, and may you write to it"):
        exported(package, tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"imageLayoutVersion": "9.0.0"}', b"[" * 60_000])
def test_a_layout_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "oci-layout").write_bytes(content)
    (tmp_path / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    source = open_source(parse_reference(f"file://{tmp_path}"), Settings())
    with pytest.raises(PackageCorrupt, match="is no OCI image layout"):
        source.offers()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schemaVersion": 2, "manifests": 7}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(PackageCorrupt):
        source_of(tmp_path).offers()
