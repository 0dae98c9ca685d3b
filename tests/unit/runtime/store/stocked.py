"""A store with packages in it, and what must be true of it after every power cut."""

from __future__ import annotations

from pathlib import Path

from unit.runtime.tiny_package import edit_build, make_package

from runtime.package import Package
from runtime.store.disk import Disk
from runtime.store.recovery import describe
from runtime.store.state import Cause, Installed, State, activate, commit
from runtime.store.store import Store

BUDGET = 1 << 20
BY = Cause(1000.0, "somebody", "because")


def built(folder: Path, version: str) -> Path:
    """A package of that version, as a build host has it."""
    root = make_package(folder / f"tiny-{version}.ortpackage")
    edit_build(root, {"version": version})
    return root


def copy_tree(disk: Disk, source: Path, target: Path) -> None:
    """Not synced."""
    disk.mkdir(target)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copy_tree(disk, path, target / path.name)
        else:
            disk.write(target / path.name, path.read_bytes())


def add(store: Store, source: Path, cause: Cause = BY) -> Installed:
    """As an installation does it."""
    package = Package.open(source)
    record = describe(
        package, f"tiny-{package.build.version}-{package.build_digest[:12]}.ortpackage", "key", cause.time_s
    )
    with store.installing():
        if record.folder not in store.open().packages:
            staged = store.incoming / record.folder
            if staged.exists():
                store.discard(staged)
            copy_tree(store.disk, source, staged)
            store.add(staged, record, cause)
    return record


def switch(store: Store, package: Installed, *, keep: bool = True) -> State:
    """Activates it, and commits it with `keep`."""
    state = store.change(lambda now: activate(now, package.folder, BY))
    return store.change(lambda now: commit(now, BY)) if keep else state


def serves(store: Store) -> str | None:
    """The version in the active slot, whose every file was compared with its digest; as for the other slot's."""
    state = store.open()
    for package in filter(None, (state.active_package, state.previous_package)):
        found = Package.open(store.path(package), verify=True)
        assert (found.build.version, found.build_digest) == (package.version, package.digest)
    return state.active_package.version if state.active_package else None
