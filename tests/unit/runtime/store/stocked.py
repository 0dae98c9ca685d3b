"""A store with packages in it, and what must be true of it whatever happened."""

from __future__ import annotations

from pathlib import Path

from unit.runtime.tiny_package import edit_build, make_package

from runtime.errors import NotTrusted
from runtime.oci.opening import open_source
from runtime.oci.reference import parse_reference
from runtime.oci.settings import Settings
from runtime.package import Package
from runtime.store.state import Cause, Installed, State, activate, commit
from runtime.store.store import Store
from runtime.trust.trust import Trust
from runtime.updates.installing import Rules, install_from

PLENTY = 1 << 40
BY = Cause(1000.0, "somebody", "because")


def built(folder: Path, version: str) -> Path:
    """A package of that version, as a build host has it."""
    root = make_package(folder / f"tiny-{version}.ortpackage")
    edit_build(root, {"version": version})
    return root


def nobody() -> Trust:
    """Nobody is trusted."""
    raise NotTrusted("nobody is")


def add(store: Store, package: Path, cause: Cause = BY, *, repair: bool = False) -> Installed:
    """Installs it, unsigned."""
    source = open_source(parse_reference(str(package)), Settings())
    rules = Rules(nobody, PLENTY, allow_unsigned=True, repair=repair)
    return install_from(store, source, source.offers()[0], rules, cause).package


def switch(store: Store, package: Installed, *, keep: bool = True) -> State:
    """Activates it, and commits it with `keep`."""
    state = store.change(lambda now: activate(now, package.folder, BY))
    return store.change(lambda now: commit(now, BY)) if keep else state


def serves(store: Store) -> str | None:
    """The version in the active slot, whose every file was compared with its digest, as for the other slot's."""
    state = store.open()
    for package in filter(None, (state.active_package, state.previous_package)):
        found = Package.open(store.path(package), verify=True)
        assert (found.build.version, found.build_digest) == (package.version, package.digest)
    return state.active_package.version if state.active_package else None
