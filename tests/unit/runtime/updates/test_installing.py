"""A package gets into the store whole, trusted and once, or not at all."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from signing import make_key, sign_package, trust_folder
from unit.runtime.oci.remotes import MemoryRemote, files_of, offer_from, package_with, source_of
from unit.runtime.store.stocked import BY, PLENTY, nobody, serves, switch
from unit.runtime.tiny_package import edit_build

from runtime.disk import LocalDisk
from runtime.errors import DowngradeRefused, NotTrusted, PackageCorrupt, PackageError, TransferError
from runtime.oci.fetching import SPARE_BYTES
from runtime.store.store import Store
from runtime.trust.trust import Trust
from runtime.updates.installing import Installation, Rules, install_from

WEIGHTS = "models/decoder/board/model.onnx.data"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path, "fleet")


@pytest.fixture
def rules(tmp_path: Path, key: Path) -> Rules:
    """Whatever `key` signed may be installed."""
    folder = trust_folder(tmp_path / "trust.d", key.with_suffix(".pem"))
    return Rules(partial(Trust.read, folder), PLENTY)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


class Builds:
    """Packages by version, as a build host has them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, version: str, weights: bytes = b"weights" * 100, key: Path | None = None) -> Path:
        root = package_with(self._folder / f"tiny-{version}.ortpackage", {WEIGHTS: weights})
        edit_build(root, {"version": version})
        return sign_package(root, key) if key else root


@pytest.fixture
def build(tmp_path: Path) -> Builds:
    return Builds(tmp_path)


def install(store: Store, remote: MemoryRemote, rules: Rules, notes: list[str] | None = None) -> Installation:
    source, _ = source_of(remote)
    said = notes if notes is not None else []
    return install_from(store, source, offer_from(source), rules, BY, note=said.append)


def test_what_was_signed_is_installed_as_it_is(store: Store, rules: Rules, build: Builds, key: Path) -> None:
    """Every byte of it, under its name, version and digest; the history says who signed it and where it is from."""
    root = build("1.2.0", key=key)
    remote = MemoryRemote.of(root)
    done = install(store, remote, rules)
    assert done.changed
    assert done.fetched_bytes == sum(map(len, set(files_of(root).values())))
    assert files_of(done.path) == files_of(root)
    assert done.package.folder == f"tiny-1.2.0-{done.package.digest[:12]}.ortpackage"
    assert done.package.signer.startswith("the key sha256:")
    entry = store.read().history[-1]
    assert (entry.event, entry.package, entry.version, entry.by, entry.why) == (
        "installed",
        "tiny",
        "1.2.0",
        BY.by,
        BY.why,
    )
    assert list(store.incoming.iterdir()) == []


def test_twice_is_once(store: Store, rules: Rules, build: Builds, key: Path) -> None:
    """The second time asks for documents alone, and writes nothing."""
    remote = MemoryRemote.of(build("1.2.0", key=key))
    first = install(store, remote, rules)
    asked, state = list(remote.asked), (store.folder / "state.json").read_bytes()
    again = install(store, remote, rules)
    assert (again.changed, again.package, again.fetched_bytes) == (False, first.package, 0)
    assert remote.asked == asked
    assert (store.folder / "state.json").read_bytes() == state


@pytest.mark.parametrize("signed", ["by nobody", "by somebody else", "and changed after that"])
def test_what_nobody_trusted_signed_is_refused_before_its_bytes(
    signed: str, store: Store, rules: Rules, build: Builds, key: Path, tmp_path: Path
) -> None:
    """Only the signature was asked for; with --allow-unsigned it is taken, and said."""
    root = build("1.2.0", key=None if signed == "by nobody" else make_key(tmp_path, "other"))
    if signed == "and changed after that":
        (sign_package(root, key) / "manifest.json").write_text("{}")
    remote = MemoryRemote.of(root)
    with pytest.raises(NotTrusted, match=r"tiny 1\.2\.0 for board is refused: "):
        install(store, remote, rules)
    assert sum(len(remote.blobs[digest]) for digest, _ in remote.asked) < len(remote.blobs) * 3000
    assert len({digest for digest, _ in remote.asked}) == (0 if signed == "by nobody" else 1)
    assert store.read().packages == {}
    notes: list[str] = []
    done = install(store, remote, replace(rules, allow_unsigned=True), notes)
    assert done.package.signer == ""
    assert len(notes) == 1
    assert "though nobody vouches for it" in notes[0]


def test_a_signature_that_comes_later_counts(store: Store, rules: Rules, build: Builds, key: Path) -> None:
    """What was taken unsigned is not taken for signed; once it is, only the signature is fetched."""
    root = build("1.2.0")
    install(store, MemoryRemote.of(root), replace(rules, allow_unsigned=True))
    with pytest.raises(NotTrusted):
        install(store, MemoryRemote.of(root), rules)
    done = install(store, MemoryRemote.of(sign_package(root, key)), rules)
    assert done.package.signer.startswith("the key")
    assert done.fetched_bytes < 5000
    assert list(store.read().packages.values()) == [done.package]
    assert files_of(done.path) == files_of(root)


def test_older_than_was_committed_is_refused_and_forced(store: Store, build: Builds) -> None:
    """Before its bytes come. A mark stays where it was when an older one is committed by force."""
    rules = Rules(nobody, PLENTY, allow_unsigned=True)
    switch(store, install(store, MemoryRemote.of(build("1.10.0")), rules).package)
    old = MemoryRemote.of(build("1.9.0"))
    with pytest.raises(DowngradeRefused, match=r"tiny 1\.9\.0 is older than 1\.10\.0"):
        install(store, old, rules)
    assert old.asked == []
    notes: list[str] = []
    done = install(store, old, replace(rules, allow_downgrade=True), notes)
    assert done.changed
    assert "tiny 1.9.0 is taken though 1.10.0 was committed here" in notes


def test_what_is_annotated_must_be_what_was_built(store: Store, build: Builds) -> None:
    """A registry that says another version does not get past the mark: build.json says it too."""
    rules = Rules(nobody, PLENTY, allow_unsigned=True)
    remote = MemoryRemote.of(build("1.9.0"))
    documents = {key: content.replace(b"1.9.0", b"2.0.0") for key, content in remote.documents.items()}
    index = documents.pop("")
    for digest, content in documents.items():
        index = index.replace(digest.encode(), f"sha256:{hashlib.sha256(content).hexdigest()}".encode())
    remote.documents = {f"sha256:{hashlib.sha256(each).hexdigest()}": each for each in documents.values()} | {"": index}
    with pytest.raises(PackageCorrupt, match=r"says '2\.0\.0' where build\.json says '1\.9\.0'"):
        install(store, remote, rules)
    assert store.read().packages == {}


def test_what_is_for_another_machine_is_refused(store: Store, build: Builds) -> None:
    """Before its bytes come."""
    root = build("1.0.0")
    other = "riscv64" if platform.machine() != "riscv64" else "x86_64"
    edit_build(
        root,
        {
            "needs": {
                "provider": "CPUExecutionProvider",
                "arch": other,
                "isa": [],
                "contrib_ops": [],
                "onnxruntime_min": None,
            }
        },
    )
    remote = MemoryRemote.of(root)
    with pytest.raises(PackageError, match=f"is for {other}, but this machine is {platform.machine()}"):
        install(store, remote, Rules(nobody, PLENTY, allow_unsigned=True))
    assert remote.asked == []


def test_it_goes_on_where_it_was_cut(store: Store, build: Builds) -> None:
    """The bytes that came do not come again."""
    root = build("1.0.0", weights=bytes(range(256)) * 40)
    remote = MemoryRemote.of(root)
    biggest = max(remote.blobs, key=lambda digest: len(remote.blobs[digest]))
    remote.cuts_of = {biggest: [5000] + [0] * 3}
    rules = Rules(nobody, PLENTY, allow_unsigned=True)
    with pytest.raises(TransferError):
        install(store, remote, rules)
    assert store.read().packages == {}
    remote.cuts_of = {}
    done = install(store, remote, rules)
    assert done.kept_bytes >= 5000
    assert files_of(done.path) == files_of(root)


def test_repair_reads_every_file(store: Store, build: Builds) -> None:
    """A flipped bit is not seen by its size; the good files are not fetched again."""
    root = build("1.0.0")
    remote = MemoryRemote.of(root)
    rules = Rules(nobody, PLENTY, allow_unsigned=True)
    done = install(store, remote, rules)
    (done.path / WEIGHTS).write_bytes(b"damaged" * 100)
    assert not install(store, remote, rules).changed
    asked = len(remote.asked)
    again = install(store, remote, replace(rules, repair=True))
    assert again.changed
    assert len(remote.asked) - asked == 2  # of the weights, and of build.json, which no package lists
    assert files_of(done.path) == files_of(root)
    assert not install(store, remote, replace(rules, repair=True)).changed


def test_what_a_rollback_goes_back_to_is_repaired_as_well(store: Store, build: Builds) -> None:
    """It is older than what was committed, and here already: that is no downgrade."""
    rules = Rules(nobody, PLENTY, allow_unsigned=True, repair=True)
    old = MemoryRemote.of(build("1.0.0"))
    done = install(store, old, rules)
    switch(store, done.package)
    switch(store, install(store, MemoryRemote.of(build("1.1.0")), rules).package)
    (done.path / WEIGHTS).unlink()
    assert install(store, old, rules).changed
    assert store.previous() == done.path
    assert serves(store) == "1.1.0"


class SmallDisk(LocalDisk):
    """Has room for so many bytes in packages."""

    def __init__(self, store: Path, room_bytes: int) -> None:
        super().__init__()
        self._packages, self._room_bytes = store / "packages", room_bytes

    def free_bytes(self, path: Path) -> int:
        used = sum(each.stat().st_size for each in self._packages.rglob("*") if each.is_file())
        return self._room_bytes - used


def test_where_the_disk_has_no_room_what_is_in_no_slot_goes(tmp_path: Path, build: Builds) -> None:
    """Whatever the budget allows; if that is not enough, it is said, and what serves does so still."""
    store = Store(tmp_path / "store", SmallDisk(tmp_path / "store", SPARE_BYTES + 250_000))
    rules = Rules(nobody, PLENTY, allow_unsigned=True)

    def of_100_kb(version: str) -> MemoryRemote:
        return MemoryRemote.of(build(version, weights=version.encode() * 20_000))

    first = switch(store, install(store, of_100_kb("1.0.0"), rules).package)
    install(store, of_100_kb("1.1.0"), rules)
    third = install(store, of_100_kb("1.2.0"), rules)
    assert [package.version for package in store.read().packages.values()] == ["1.0.0", "1.2.0"]
    switch(store, third.package)
    with pytest.raises(TransferError, match=r"no space for tiny 1\.3\.0 for board"):
        install(store, of_100_kb("1.3.0"), rules)
    assert serves(store) == "1.2.0"
    assert store.previous() == store.packages / next(iter(first.packages))


def test_the_budget_is_kept_at_the_end(store: Store, build: Builds) -> None:
    """What was installed just now and what is in slots stays."""
    rules = Rules(nobody, 0, allow_unsigned=True)
    switch(store, install(store, MemoryRemote.of(build("1.0.0")), rules).package)
    install(store, MemoryRemote.of(build("1.1.0")), rules)
    done = install(store, MemoryRemote.of(build("1.2.0")), rules)
    assert done.collected is not None
    assert [package.version for package in done.collected.packages] == ["1.1.0"]
    assert sorted(package.version for package in store.read().packages.values()) == ["1.0.0", "1.2.0"]
    assert serves(store) == "1.0.0"
