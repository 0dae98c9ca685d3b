"""A fetch is the identity, whatever cuts it and wherever it is taken up; what is not what it should be never stays."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.runtime.oci.remotes import WEIGHTS, MemoryRemote, contents_from, files_of, package_with, source_of

from runtime.disk import LocalDisk
from runtime.errors import (
    EdgeQwenError,
    PackageCorrupt,
    PackageError,
    PackageNotThere,
    RemoteUnavailable,
    TransferError,
    TransferInterrupted,
)
from runtime.oci.fetching import Fetched, fetch
from runtime.oci.source import Source
from runtime.package import Package

CONTENT = bytes(range(256)) * 3


class DyingDisk(LocalDisk):
    """The n-th change to it fails, as do all that come after."""

    def __init__(self, lives: int, number: int = errno.ENOSPC) -> None:
        super().__init__()
        self.lives, self._number = lives, number

    def _count(self) -> None:
        self.lives -= 1
        if self.lives < 0:
            raise OSError(self._number, os.strerror(self._number))

    def write(self, path: Path, content: bytes) -> None:
        self._count()
        super().write(path, content)

    def append(self, path: Path, content: bytes) -> None:
        self._count()
        super().append(path, content)

    def rename(self, source: Path, target: Path) -> None:
        self._count()
        super().rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        self._count()
        super().link(source, target)

    def mkdir(self, path: Path) -> None:
        self._count()
        super().mkdir(path)

    def unlink(self, path: Path) -> None:
        self._count()
        super().unlink(path)


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return package_with(tmp_path / "p", {WEIGHTS: CONTENT, "configs/empty.json": b"", "manifest.json": b"{}"})


def fetch_all(source: Source, incoming: Path, disk: LocalDisk | None = None, **more: object) -> Fetched:
    return fetch(source, contents_from(source), incoming / "p.ortpackage", disk or LocalDisk(), **more)  # type: ignore[arg-type]


NAMES = st.text("abcXYZ019._-", min_size=1, max_size=8).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TREES = st.dictionaries(PATHS, st.binary(max_size=200), max_size=6)


def without_clashes(tree: Mapping[str, bytes]) -> dict[str, bytes]:
    """A file is no folder of another, in any spelling."""
    folded = [path.casefold() for path in tree]
    return {
        path: content
        for path, content in tree.items()
        if folded.count(path.casefold()) == 1
        and not any(other.startswith(f"{path.casefold()}/") for other in folded)
        and not any(path.casefold().startswith(f"{other}/") for other in folded)
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(tree=TREES, cuts=st.lists(st.integers(0, 120), max_size=12))
def test_what_comes_is_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes], cuts: list[int]
) -> None:
    """For any tree of files, in any place that a package has, and wherever answers are cut."""
    folder = tmp_path_factory.mktemp("any")
    files = {f"models/decoder/board/more/{path}": content for path, content in without_clashes(tree).items()}
    files |= {f"configs/more/{path}": content for path, content in without_clashes(tree).items()}
    package = package_with(folder / "p", {**files, "signatures/board.sig": b"signed"})
    remote = MemoryRemote.of(package)
    remote.cuts = list(cuts)
    source, _ = source_of(remote, retries=20)
    (folder / "incoming").mkdir()
    fetched = fetch_all(source, folder / "incoming")
    assert files_of(folder / "incoming/p.ortpackage") == files_of(package)
    assert Package.open(fetched.package.root).build == Package.open(package).build


def test_of_several_variants_one_comes_with_what_all_share(tmp_path: Path, incoming: Path) -> None:
    """And with its own signature, not the others'."""
    shared, own = b"weights" * 9, {"configs/config.json": b"{}", "signatures/a.sig": b"A", "signatures/b.sig": b"B"}
    files = {f"models/decoder/{name}/model.onnx.data": shared for name in "ab"}
    package = package_with(tmp_path / "p", files | own, "a", "b")
    remote = MemoryRemote.of(package)
    source, _ = source_of(remote)
    fetch(source, contents_from(source, "b"), incoming / "p.ortpackage", LocalDisk())
    expected = {path: content for path, content in files_of(package).items() if "/a" not in path}
    assert files_of(incoming / "p.ortpackage") == expected
    assert {path.name for path in incoming.iterdir()} == {"p.ortpackage"}
    assert [sha256 for sha256, _ in remote.asked].count(hashlib.sha256(shared).hexdigest()) == 1


@pytest.mark.parametrize("lives", range(0, 140, 7))
def test_a_full_disk_is_one_line_and_the_next_fetch_goes_on(package: Path, incoming: Path, lives: int) -> None:
    """Whichever write it is that finds no room: what came is kept, and asked for no second time."""
    remote = MemoryRemote.of(package)
    source, _ = source_of(remote)
    disk = DyingDisk(lives)
    said = ""
    try:
        fetch_all(source, incoming, disk)
    except TransferError as error:
        said = str(error)
    assert ("no space left on the disk of" in said) == (disk.lives < 0)
    came = sum(path.stat().st_size for path in incoming.rglob("*") if path.is_file())
    second = fetch_all(source, incoming)
    assert files_of(incoming / "p.ortpackage") == files_of(package)
    assert second.kept_bytes == came


def test_a_fetch_that_was_cut_goes_on_in_another_process_and_reads_only_what_is_missing(
    package: Path, incoming: Path
) -> None:
    """The status says that the same is to be done again."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    remote = MemoryRemote.of(package)
    remote.cuts_of = {sha256: [100]}
    source, _ = source_of(remote, retries=0)
    with pytest.raises(TransferInterrupted, match="broke off; what came is kept: do the same again to go on") as cut:
        fetch_all(source, incoming)
    assert cut.value.exit_code == 75
    before = {asked for asked, _ in remote.asked} - {sha256}
    remote.asked = []
    fetched = fetch_all(source, incoming)
    assert (sha256, 100) in remote.asked
    assert before.isdisjoint(asked for asked, _ in remote.asked)
    assert fetched.fetched_bytes + fetched.kept_bytes == contents_from(source).size_bytes


def test_a_remote_that_never_answers_is_given_up(package: Path, incoming: Path) -> None:
    """After as many retries as there may be, with growing waits; the status is that of no answer."""
    remote = MemoryRemote.of(package)
    source, _ = source_of(remote, retries=4)
    contents = contents_from(source)
    remote.fails = lambda: RemoteUnavailable("registry.example does not answer")
    with pytest.raises(RemoteUnavailable) as raised:
        fetch(source, contents, incoming / "p.ortpackage", LocalDisk())
    assert raised.value.exit_code == 69
    assert source.patience.sleep == [0.25, 0.5, 1.0, 2.0]


def test_bytes_that_are_not_what_they_should_be_are_dropped_and_said(package: Path, incoming: Path) -> None:
    """Of one remote: it is refused. Nothing of them is left."""
    remote = MemoryRemote.of(package)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    remote.sends = {sha256: b"x" * len(CONTENT)}
    source, _ = source_of(remote)
    with pytest.raises(PackageCorrupt, match=r"registry\.example/edge has something else in the place of .*onnx\.data"):
        fetch_all(source, incoming)
    assert not list(incoming.glob(f"*{sha256}*"))


@pytest.mark.parametrize("content", [CONTENT + b"1", CONTENT * 1000, b"x" * len(CONTENT), b"x" * 5000])
def test_a_mirror_that_sends_something_else_is_left_with_a_line(package: Path, incoming: Path, content: bytes) -> None:
    """Longer, other, or both: the next one has what was asked for, and no more than that is ever written."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    mirror, registry = MemoryRemote.of(package, "mirror.example/edge"), MemoryRemote.of(package)
    mirror.sends = {sha256: content}
    source, notes = source_of(mirror, registry)
    fetch_all(source, incoming)
    assert files_of(incoming / "p.ortpackage") == files_of(package)
    assert [note.partition(" has ")[0] for note in notes] == ["mirror.example/edge"]
    assert [asked for asked in registry.asked if asked[0] == sha256] == [(sha256, 0)]


def test_a_shorter_blob_is_not_taken_for_a_whole_one(package: Path, incoming: Path) -> None:
    """It looks like a cut until there is no more to come, as on a stick that was drawn out too early: no waiting helps.
    Another that has all of it goes on from there."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    stick = MemoryRemote.of(package, "oci-layout:/media/usb")
    stick.sends = {sha256: CONTENT[:-1]}
    source, _ = source_of(stick)
    with pytest.raises(PackageCorrupt, match=r"usb has only 767 of 768 bytes of .*onnx\.data: it was not copied whole"):
        fetch_all(source, incoming)
    assert source.patience.sleep == [0.25]
    registry = MemoryRemote.of(package)
    fetch_all(source_of(stick, registry)[0], incoming)
    assert (sha256, 767) in registry.asked
    assert files_of(incoming / "p.ortpackage") == files_of(package)


def test_a_cut_at_one_mirror_goes_on_at_the_next(package: Path, incoming: Path) -> None:
    """From the byte where it was."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    mirror, registry = MemoryRemote.of(package, "mirror.example/edge"), MemoryRemote.of(package)
    mirror.cuts_of = {sha256: [123]}
    source, _ = source_of(mirror, registry)
    fetch_all(source, incoming)
    assert files_of(incoming / "p.ortpackage") == files_of(package)
    assert (sha256, 123) in registry.asked


@pytest.mark.parametrize(
    "failure", [PackageNotThere("there is no blob"), RemoteUnavailable("mirror.example does not answer")]
)
def test_a_mirror_that_has_not_is_passed_by(package: Path, incoming: Path, failure: EdgeQwenError) -> None:
    mirror, registry = MemoryRemote.of(package, "mirror.example/edge"), MemoryRemote.of(package)
    mirror.fails = lambda: failure
    source, notes = source_of(mirror, registry)
    fetch_all(source, incoming)
    assert files_of(incoming / "p.ortpackage") == files_of(package)
    assert str(failure) in notes[0]


def test_what_a_power_cut_damaged_is_fetched_anew_and_no_remote_is_blamed(package: Path, incoming: Path) -> None:
    """A `.part` whose end is not what was written."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    (incoming / f"sha256-{sha256}.part").write_bytes(CONTENT[:500] + bytes(100))
    source, notes = source_of(MemoryRemote.of(package))
    fetch_all(source, incoming)
    assert files_of(incoming / "p.ortpackage") == files_of(package)
    assert [note for note in notes if "is damaged: fetching it anew" in note] == notes
    assert notes


@pytest.mark.parametrize("left", [CONTENT + b"more", b"x" * len(CONTENT)])
def test_a_part_that_can_be_none_is_dropped(package: Path, incoming: Path, left: bytes) -> None:
    (incoming / f"sha256-{hashlib.sha256(CONTENT).hexdigest()}.part").write_bytes(left)
    source, _ = source_of(MemoryRemote.of(package))
    fetched = fetch_all(source, incoming)
    assert files_of(incoming / "p.ortpackage") == files_of(package)
    assert fetched.kept_bytes == 0


def test_a_signature_is_looked_at_before_other_bytes_are_asked_for(tmp_path: Path, incoming: Path) -> None:
    """With the digests of all that it covers; what is refused leaves nothing but itself."""
    package = package_with(tmp_path / "p", {WEIGHTS: CONTENT, "signatures/board.sig": b"signed"})
    remote = MemoryRemote.of(package)
    source, _ = source_of(remote)
    seen: list[tuple[Mapping[str, str], bytes | None]] = []

    def refuse(digests: Mapping[str, str], signature: bytes | None) -> None:
        seen.append((digests, signature))
        raise PackageError("not signed by us")

    with pytest.raises(PackageError, match="not signed by us"):
        fetch_all(source, incoming, check=refuse)
    expected = {
        path: hashlib.sha256(content).hexdigest()
        for path, content in files_of(package).items()
        if not path.startswith("signatures/")
    }
    assert seen == [(expected, b"signed")]
    assert [sha256 for sha256, _ in remote.asked] == [hashlib.sha256(b"signed").hexdigest()]
    assert not (incoming / "p.ortpackage").exists()


def test_a_package_without_signature_is_shown_as_one(package: Path, incoming: Path) -> None:
    signatures: list[bytes | None] = []
    source, _ = source_of(MemoryRemote.of(package))
    fetch_all(source, incoming, check=lambda _digests, signature: signatures.append(signature))
    assert signatures == [None]


def test_what_another_package_has_is_linked_and_not_fetched(package: Path, tmp_path: Path, incoming: Path) -> None:
    """If it is what it says; one that was changed is not taken."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    other = package_with(tmp_path / "other", {WEIGHTS: CONTENT})
    remote = MemoryRemote.of(package)
    source, _ = source_of(remote)
    fetched = fetch_all(source, incoming, others=[other])
    assert (incoming / "p.ortpackage" / WEIGHTS).samefile(other / WEIGHTS)
    assert fetched.linked_bytes >= len(CONTENT)
    assert sha256 not in [asked for asked, _ in remote.asked]


def test_a_changed_file_of_another_package_is_not_linked(package: Path, tmp_path: Path, incoming: Path) -> None:
    other = package_with(tmp_path / "other", {WEIGHTS: CONTENT})
    (other / WEIGHTS).write_bytes(b"x" * len(CONTENT))
    source, _ = source_of(MemoryRemote.of(package))
    fetch_all(source, incoming, others=[other, tmp_path / "nowhere"])
    assert files_of(incoming / "p.ortpackage") == files_of(package)


def test_too_little_room_is_known_before_anything_is_fetched(package: Path, incoming: Path) -> None:
    class SmallDisk(LocalDisk):
        def free_bytes(self, path: Path) -> int:
            return 500

    remote = MemoryRemote.of(package)
    source, _ = source_of(remote)
    with pytest.raises(TransferError, match=r"it needs 0\.0 MB more and 0\.0 MB are free; make room"):
        fetch_all(source, incoming, SmallDisk())
    assert remote.asked == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(older=TREES, newer=TREES)
def test_what_another_version_left_there_is_in_nobodys_way(
    tmp_path_factory: pytest.TempPathFactory, older: dict[str, bytes], newer: dict[str, bytes]
) -> None:
    """Whatever was put together, and not taken away, before: files where folders are to be, and folders for files."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "incoming").mkdir()
    for name, tree in (("older", older), ("newer", newer)):
        files = {f"configs/{path}": content for path, content in without_clashes(tree).items()}
        package = package_with(folder / name, {path: files[path] for path in files if path != "configs/tokenizer.json"})
        fetch_all(source_of(MemoryRemote.of(package))[0], folder / "incoming")
        assert files_of(folder / "incoming/p.ortpackage") == files_of(package)


@pytest.mark.parametrize("left", [b"x" * len(CONTENT), CONTENT[:-1]])
def test_a_whole_blob_is_compared_again(package: Path, incoming: Path, left: bytes) -> None:
    """A disk may have damaged it, or somebody who may write there."""
    (incoming / f"sha256-{hashlib.sha256(CONTENT).hexdigest()}").write_bytes(left)
    source, notes = source_of(MemoryRemote.of(package))
    fetched = fetch_all(source, incoming)
    assert files_of(incoming / "p.ortpackage") == files_of(package)
    assert fetched.kept_bytes == 0
    assert [note for note in notes if "is damaged: fetching it anew" in note] == notes


def test_a_file_that_is_too_large_for_a_file_system_is_said(package: Path, incoming: Path) -> None:
    """vfat ends at 4 GiB: more room would not help."""
    source, _ = source_of(MemoryRemote.of(package))
    with pytest.raises(TransferError, match="takes no file as large"):
        fetch_all(source, incoming, DyingDisk(9, errno.EFBIG))


def test_what_is_there_and_is_no_part_of_it_goes(package: Path, incoming: Path) -> None:
    """Signatures cover all that there is: a file of before would make them fail."""
    stray = incoming / "p.ortpackage/configs/old/stray.json"
    stray.parent.mkdir(parents=True)
    stray.write_text("{}")
    source, _ = source_of(MemoryRemote.of(package))
    fetch_all(source, incoming)
    assert files_of(incoming / "p.ortpackage") == files_of(package)
    assert not stray.parent.exists()


def test_progress_ends_where_it_should(package: Path, incoming: Path) -> None:
    """It never goes past all that there is."""
    remote = MemoryRemote.of(package_with(package, {"signatures/board.sig": b"signed"}))
    remote.cuts = [3, 50, 9]
    source, _ = source_of(remote)
    total = contents_from(source).size_bytes
    for which in ("fetched_bytes", "kept_bytes"):
        seen: list[tuple[int, int]] = []
        told = partial(_told, seen)
        fetched = fetch_all(source, incoming, check=lambda *_: None, progress=told)
        assert getattr(fetched, which) == total
        assert seen == sorted(seen)
        assert seen[-1] == (total, total)


def _told(seen: list[tuple[int, int]], done: int, total: int) -> None:
    seen.append((done, total))


def test_a_build_that_contradicts_its_manifest_is_refused(tmp_path: Path, incoming: Path) -> None:
    """What was offered decides about downgrades, and no signature covers it."""
    package = package_with(tmp_path / "p", {})
    remote = MemoryRemote.of(package)
    forged = {
        digest: content.replace(b'version":"1.0.0"', b'version":"9.0.0"')
        for digest, content in remote.documents.items()
    }
    index = forged.pop("")
    [old], [manifest] = forged, forged.values()
    new = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    remote.documents = {new: manifest, "": index.replace(old.encode(), new.encode())}
    source, _ = source_of(remote)
    with pytest.raises(PackageCorrupt, match=r"says '9\.0\.0' where build\.json says '1\.0\.0'"):
        fetch_all(source, incoming)
