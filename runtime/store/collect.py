"""Removes packages that no slot names, the oldest first, until the store keeps to its budget."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .state import Cause, Installed, State, forget
from .store import Store
from .tree import disk_bytes


@dataclass(frozen=True)
class Collected:
    """What went, and what is left. `leftovers` are paths that were no package: cut downloads, folders of no record."""

    packages: tuple[Installed, ...]
    leftovers: tuple[Path, ...]
    left_bytes: int

    @property
    def changed(self) -> bool:
        return bool(self.packages or self.leftovers)


def collect(store: Store, budget_bytes: int, cause: Cause, *, keep: str | None = None) -> Collected:
    """Makes the packages take `budget_bytes` at most, as far as slots allow it; `keep` is a folder that stays anyhow.

    A download that was cut may go on until something newer is installed. Whoever calls this holds
    `store.installing()`, so that nothing which is being put together is taken for a leftover.
    """
    state = store.open()
    leftovers = [*_cut_downloads(store, state), *_unknown(store, state)]
    for path in leftovers:
        store.discard(path)
    gone = []
    for package in sorted(state.packages.values(), key=lambda its: (its.installed_s, its.folder)):
        if package.folder in (state.slots.a, state.slots.b, keep):
            continue
        if _bytes_of(store, state) <= budget_bytes:
            break
        state = store.change(partial(forget, folder=package.folder, cause=cause))
        if package.folder not in state.packages:  # nobody has put it into a slot meanwhile
            store.discard(store.path(package))
            gone.append(package)
    return Collected(tuple(gone), tuple(leftovers), _bytes_of(store, state))


def _bytes_of(store: Store, state: State) -> int:
    return disk_bytes(path for package in state.packages.values() if (path := store.path(package)).is_dir())


def _cut_downloads(store: Store, state: State) -> list[Path]:
    newest_s = max((package.installed_s for package in state.packages.values()), default=0.0)
    return [path for path in sorted(store.incoming.iterdir()) if path.lstat().st_mtime < newest_s]


def _unknown(store: Store, state: State) -> list[Path]:
    return [path for path in sorted(store.packages.iterdir()) if path.name not in state.packages]
