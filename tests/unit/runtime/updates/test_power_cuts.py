"""Power fails at any operation, and any part of what was not synced is lost: something whole and verified serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
from power import FragileDisk, losses, memory
from unit.runtime.store.stocked import BY, add, built, serves, switch

from runtime.disk import Disk
from runtime.package import Package
from runtime.store.collect import collect
from runtime.store.state import State, roll_back
from runtime.store.store import Step, Store

VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
SAMPLES = 6


class Watched(Store):
    """A store that remembers what it said was done."""

    promised = State()

    def change(self, step: Step) -> State:
        self.promised = super().change(step)
        return self.promised


class Device:
    """What can happen to a store; each may be done twice."""

    def __init__(self, sources: dict[str, Path]) -> None:
        self._sources = sources

    def first(self, store: Store) -> None:
        switch(store, add(store, self._sources["1.0.0"]))

    def update(self, store: Store) -> None:
        switch(store, add(store, self._sources["1.1.0"]))

    def trial(self, store: Store) -> None:
        switch(store, add(store, self._sources["1.2.0"]), keep=False)

    def undo(self, store: Store) -> None:
        store.change(lambda state: roll_back(state, BY))

    def clear(self, store: Store) -> None:
        with store.installing():
            collect(store, 0, replace(BY, time_s=2000.0))


Work = Callable[[Device, Store], None]
STORIES: dict[str, tuple[list[Work], Work, str | None, str]] = {
    "the first installation": ([], Device.first, None, "1.0.0"),
    "an update": ([Device.first], Device.update, "1.0.0", "1.1.0"),
    "an update on trial": ([Device.first, Device.update], Device.trial, "1.1.0", "1.2.0"),
    "a rollback": ([Device.first, Device.update, Device.trial], Device.undo, "1.2.0", "1.1.0"),
    "a collection": ([Device.first, Device.update, Device.trial, Device.undo], Device.clear, "1.1.0", "1.1.0"),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory() as folder:
        yield folder


@pytest.mark.parametrize("story", STORIES)
def test_whatever_a_power_cut_loses_something_whole_serves(story: str, folder: Path) -> None:
    """Before each operation of the story: what serves afterwards is what did before or what was to, all that the store
    had said was done still is, and the same once more completes."""
    earlier, work, before, after = STORIES[story]
    device = Device({version: built(folder, version) for version in VERSIONS})
    root, left = folder / "var", folder / "left"
    root.mkdir()
    for each in earlier:
        each(device, _store(root))
    cuts = 0

    def cut(disk: FragileDisk) -> None:
        nonlocal cuts
        cuts += 1
        for loss in losses(SAMPLES, seed=cuts):
            disk.rebooted(loss, left)
            rebooted = _store(left)
            assert serves(rebooted) in (before, after), loss
            assert rebooted.promised.history[: len(store.promised.history)] == store.promised.history, loss
            work(device, rebooted)
            assert serves(_store(left)) == after, loss
            rmtree(left)

    store = _store(root, FragileDisk(root, cut))
    work(device, store)
    assert cuts > 5
    assert serves(_store(root)) == after


def test_a_repair_that_is_cut_makes_nothing_worse(folder: Path) -> None:
    """Each file of the damaged package that serves is what it was or is good; the one behind it is whole; the same once
    more completes."""
    device = Device({version: built(folder, version) for version in VERSIONS})
    root, left = folder / "var", folder / "left"
    root.mkdir()
    device.first(_store(root))
    device.update(_store(root))
    package = _store(root).active()
    assert package is not None
    good = _files(package)
    (package / "models/decoder/board/serving.onnx").unlink()
    (package / "models/decoder/board/serving.onnx").write_bytes(b"")
    (package / "configs/tokenizer.json").unlink()
    (package / "configs").rmdir()
    damaged = _files(package)
    cuts = 0

    def cut(disk: FragileDisk) -> None:
        nonlocal cuts
        cuts += 1
        for loss in losses(SAMPLES, seed=cuts):
            disk.rebooted(loss, left)
            rebooted = _store(left)
            for name, content in _files(rebooted.packages / package.name).items():
                assert content in (good[name], damaged.get(name)), (name, loss)
            previous = rebooted.previous()
            assert previous is not None
            Package.open(previous, verify=True)
            device.update(rebooted)
            assert serves(_store(left)) == "1.1.0", loss
            rmtree(left)

    device.update(_store(root, FragileDisk(root, cut)))
    assert cuts > 5
    assert _files(package) == good


def _files(package: Path) -> dict[str, bytes]:
    return {str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*") if path.is_file()}


def _store(root: Path, disk: Disk | None = None) -> Watched:
    return Watched(root / "store", disk or FragileDisk(root))
