"""The folder of packages: one truth that changes as a whole, put right when it is damaged, kept to a budget."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from power import FragileDisk
from unit.runtime.store.stocked import BY, add, built, serves, switch

from runtime.disk import LocalDisk
from runtime.errors import PackageCorrupt, StateNewer, StateUnusable, StoreBusy, StoreError
from runtime.package import Package
from runtime.store.collect import collect
from runtime.store.state import Cause, State, activate, refuse, roll_back
from runtime.store.store import Store
from runtime.store.tree import disk_bytes, remove_tree

GRAPH = "models/decoder/board/serving.onnx"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With 1.0.0 committed and 1.1.0 on trial."""
    store = Store(tmp_path / "store")
    switch(store, add(store, built(tmp_path, "1.0.0")))
    switch(store, add(store, built(tmp_path, "1.1.0"), replace(BY, time_s=2000.0)), keep=False)
    return store


def test_a_device_that_never_had_a_package(tmp_path: Path) -> None:
    """Nothing is made by looking at it."""
    store = Store(tmp_path / "store")
    assert store.read() == State()
    assert store.active() is None
    assert not store.folder.exists()


def test_active_and_previous_are_packages(store: Store) -> None:
    """Each is where its path says."""
    versions = [Package.open(path).build.version for path in (store.active(), store.previous()) if path]
    assert versions == ["1.1.0", "1.0.0"]


def test_a_step_that_changes_nothing_writes_nothing(store: Store) -> None:
    """The file stays the same one."""
    before = (store.folder / "state.json").stat()
    package = store.read().active_package
    assert package is not None
    store.change(partial(activate, folder=package.folder, cause=BY))
    assert (store.folder / "state.json").stat().st_ino == before.st_ino


def test_a_step_that_fails_changes_nothing(store: Store) -> None:
    """And the lock is free again."""
    before = store.read()

    def fails(state: State) -> State:
        raise PackageCorrupt("so it is")

    with pytest.raises(PackageCorrupt):
        store.change(fails)
    assert store.open() == before


def test_changes_of_several_threads_are_all_kept(store: Store) -> None:
    """Nobody's is lost: each waits for the others."""
    package = store.read().active_package
    assert package is not None

    def note(number: int) -> None:
        for _ in range(5):
            Store(store.folder).change(partial(refuse, folder=package.folder, cause=replace(BY, by=f"{number}")))

    threads = [threading.Thread(target=note, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.by for entry in store.read().history if entry.event == "refused") == sorted("012345" * 5)


def test_one_installation_at_a_time(store: Store) -> None:
    """The second is told at once, and may look and switch meanwhile."""
    with store.installing():
        with pytest.raises(StoreBusy, match="try again"), Store(store.folder).installing():
            pass
        Store(store.folder).change(partial(roll_back, cause=BY))
    with Store(store.folder).installing():
        pass


def test_one_says_what_serves(store: Store) -> None:
    """A daemon from before it loads until its end, or whoever changes that while there is none."""
    assert not store.is_served
    assert not (store.folder / "serving").exists(), "nothing is made by asking"
    with store.serving():
        assert Store(store.folder).is_served
        with pytest.raises(StoreBusy, match=r"an edgeqwend has .*--target"), Store(store.folder).serving(0):
            pass
        with Store(store.folder).installing():
            pass
    assert not store.is_served


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, 40),
    "noise": lambda path: path.write_bytes(os.urandom(500)),
    "gone": lambda path: path.unlink(),
    "another shape": lambda path: path.write_text('{"format": 1, "state": {"active": "b"}}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_what_it_was_before_the_last_change(damage: str, store: Store) -> None:
    """It is refused to those who look, and put right for those who serve; what it was stays for whoever asks why."""
    state = store.read()
    store.change(partial(roll_back, cause=BY))
    DAMAGE[damage](store.folder / "state.json")
    with pytest.raises(StateUnusable, match=r"state\.json cannot be used"):
        store.read()
    put_right = store.open()
    assert replace(put_right, history=state.history) == state
    assert put_right.history[-1].event == "recovered"
    assert "cannot be used" in put_right.history[-1].why
    assert (store.folder / "state.json.damaged").exists() is (damage != "gone")
    assert serves(store) == "1.1.0"


@pytest.mark.parametrize("also", ["the state before", "nothing"])
def test_a_lost_state_is_made_of_the_packages_that_are_whole(also: str, store: Store, tmp_path: Path) -> None:
    """The newest serves, on trial; one with a file too few does not count."""
    switch(store, add(store, built(tmp_path, "1.2.0"), replace(BY, time_s=3000.0)))
    state = store.read()
    assert state.active_package is not None
    assert state.previous_package is not None
    (store.path(state.active_package) / GRAPH).unlink()
    os.utime(store.path(state.previous_package), (10**9, 10**9))
    (store.folder / "state.json").write_bytes(b"\0" * 100)
    if also == "nothing":
        (store.folder / "state.json.previous").unlink()
    else:
        (store.folder / "state.json.previous").write_bytes(b"{}")
    found = store.open()
    assert [package.version for package in found.packages.values()] == ["1.0.0", "1.1.0"]
    assert found.trial is not None
    assert found.committed == {"tiny": "1.1.0"}
    assert serves(store) == "1.1.0"
    assert store.previous() == store.path(state.previous_package)


def test_packages_that_left_since_are_not_taken_up_again(store: Store) -> None:
    """The state before has one in its active slot that was removed: the other slot's serves, committed as it was."""
    on_trial = store.active()
    before = (store.folder / "state.json").read_bytes()
    store.change(partial(roll_back, cause=BY))
    with store.installing():
        collect(store, 0, BY)
    assert on_trial is not None
    assert not on_trial.exists()
    (store.folder / "state.json.previous").write_bytes(before)
    (store.folder / "state.json").write_bytes(b"")
    assert serves(store) == "1.0.0"
    assert store.read().trial is None
    assert store.previous() is None


def test_a_newer_state_is_left_alone(store: Store) -> None:
    """By those who look and by those who change."""
    path = store.folder / "state.json"
    path.write_text('{"format": 2, "slots": []}')
    for each in (store.read, store.open):
        with pytest.raises(StateNewer, match="update edgeqwen"):
            each()
    assert path.read_text() == '{"format": 2, "slots": []}'


def test_damaged_files_of_a_package_that_serves_are_replaced_one_by_one(store: Store, tmp_path: Path) -> None:
    """Cut, missing and changed ones; those that are as they were stay the same files, and the history has it."""
    package = store.read().active_package
    assert package is not None
    folder = store.path(package)
    good = (folder / "models/decoder/board/build.json").stat().st_ino
    (folder / GRAPH).unlink()  # the other package has it too
    (folder / GRAPH).write_bytes(b"")
    (folder / "configs/tokenizer.json").unlink()
    (folder / "configs").rmdir()
    assert add(store, tmp_path / "tiny-1.1.0.ortpackage") == package
    assert serves(store) == "1.1.0"
    assert (folder / "models/decoder/board/build.json").stat().st_ino == good
    assert [entry.event for entry in store.read().history][-1] == "repaired"
    assert list(store.incoming.glob("tiny*")) == []


def test_collection_keeps_slots_and_the_budget(store: Store, tmp_path: Path) -> None:
    """Oldest first, until it is kept to; twice is once."""
    for number in range(2, 6):
        add(store, built(tmp_path, f"1.{number}.0"), replace(BY, time_s=1000.0 * (number + 1)))
    state = store.read()
    sizes = {package.version: disk_bytes([store.path(package)]) for package in state.packages.values()}
    shared = sum(sizes.values()) - disk_bytes(map(store.path, state.packages.values()))
    assert shared > 0  # packages have files in common, which count once
    budget = disk_bytes(store.path(package) for package in state.packages.values() if package.version != "1.2.0")
    with store.installing():
        done = collect(store, budget, BY)
        assert [package.version for package in done.packages] == ["1.2.0"]
        assert done.left_bytes == budget
        assert not collect(store, budget, BY).changed
        done = collect(store, 0, BY, keep=list(state.packages)[-1])
    assert [package.version for package in done.packages] == ["1.3.0", "1.4.0"]
    left = store.read()
    assert [package.version for package in left.packages.values()] == ["1.0.0", "1.1.0", "1.5.0"]
    assert sorted(path.name for path in store.packages.iterdir()) == sorted(left.packages)
    assert serves(store) == "1.1.0"


def test_the_oldest_was_installed_first_whatever_the_clock_said(store: Store, tmp_path: Path) -> None:
    """A board without a battery begins in 1970, or where it was switched off."""
    for version, time_s in (("1.2.0", 9000.0), ("1.3.0", 1.0), ("1.4.0", 5000.0)):
        add(store, built(tmp_path, version), replace(BY, time_s=time_s))
    budget = disk_bytes(store.path(its) for its in store.read().packages.values() if its.version != "1.2.0")
    with store.installing():
        assert [package.version for package in collect(store, budget, BY).packages] == ["1.2.0"]


def test_sizes_are_told_while_packages_go(tmp_path: Path) -> None:
    """Whoever looks holds no lock."""

    def folders() -> Iterator[Path]:
        for number in range(3):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            (folder / "file").write_bytes(b"x" * 4096)
            if number == 1:
                remove_tree(LocalDisk(), folder)
            yield folder

    whole = disk_bytes([tmp_path])
    assert disk_bytes(folders()) == disk_bytes([tmp_path / "0", tmp_path / "2"]) > whole


def test_leftovers_go_when_something_newer_is_installed(store: Store) -> None:
    """A download that was cut stays until then; what is no package and in no record goes."""
    (store.incoming / "sha256-00.part").write_bytes(b"old")
    os.utime(store.incoming / "sha256-00.part", (1500.0, 1500.0))
    (store.incoming / "sha256-01.part").write_bytes(b"new")
    (store.packages / "half.ortpackage").mkdir()
    (store.packages / "half.ortpackage" / "file").write_bytes(b"half")
    (store.packages / "link").symlink_to(store.incoming)
    with store.installing():
        done = collect(store, 1 << 40, BY)
    assert sorted(path.name for path in done.leftovers) == ["half.ortpackage", "link", "sha256-00.part"]
    assert (store.incoming / "sha256-01.part").exists()
    assert serves(store) == "1.1.0"


class FullDisk(FragileDisk):
    """Takes nothing more."""

    def write(self, path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")


class ReadOnlyDisk(LocalDisk):
    """What the kernel makes of one that fails."""

    def lock(self, path: Path, wait_s: float) -> AbstractContextManager[None]:
        raise OSError(30, "Read-only file system")


def test_a_full_disk_is_said_and_nothing_changes(store: Store) -> None:
    """With what helps."""
    before = store.read()
    with pytest.raises(StoreError, match="is full: free some, or `edgeqwen collect --budget 0`"):
        Store(store.folder, FullDisk(store.folder)).change(partial(roll_back, cause=BY))
    assert store.read() == before


def test_a_disk_that_fails_is_said(store: Store) -> None:
    """Root could do nothing about it."""
    with pytest.raises(StoreError, match=r"\(Read-only file system\): `dmesg` has why"):
        Store(store.folder, ReadOnlyDisk()).change(partial(roll_back, cause=BY))


def test_what_is_damaged_can_be_looked_at_where_nothing_can_be_written(store: Store) -> None:
    """As it would be put right."""
    before = store.read()
    store.change(partial(roll_back, cause=BY))
    (store.folder / "state.json").write_bytes(b"")
    found = Store(store.folder, ReadOnlyDisk()).look()
    assert replace(found, history=before.history) == before
    assert (store.folder / "state.json").read_bytes() == b""


def test_who_may_not_write_is_told(store: Store) -> None:
    """Whoever is neither root nor the daemon's user."""

    class Foreign(LocalDisk):
        def write(self, path: Path, content: bytes) -> None:
            raise PermissionError(13, "Permission denied")

    with pytest.raises(StoreError, match=r"Permission denied.*run as root or as the daemon's user"):
        Store(store.folder, Foreign()).change(partial(roll_back, cause=Cause(1.0, "me")))
