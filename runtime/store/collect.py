"""Removes packages that no slot names, the oldest first, until the store keeps to its budget.

The oldest is what was installed first, whatever the board's clock said then: without a battery it begins anywhere.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..errors import StoreError
from .state import Cause, Installed, State, forget
from .store import Store
from .tree import disk_bytes

_SHARE = 4
"""A store may take one of so many parts of its disk where nobody said how much."""


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
    cause = replace(cause, why=f"in no slot, and packages took more than {budget_bytes / 1e6:.0f} MB")
    leftovers = [*_cut_downloads(store, state), *_unknown(store, state)]
    for path in leftovers:
        store.discard(path)
    gone = []
    for package in [*state.packages.values()]:
        if package.folder in state.in_use | {keep}:
            continue
        if _bytes_of(store, state) <= budget_bytes:
            break
        state = store.change(partial(forget, folder=package.folder, cause=cause))
        if package.folder not in state.packages:  # nobody has put it into a slot meanwhile
            store.discard(store.path(package))
            gone.append(package)
    return Collected(tuple(gone), tuple(leftovers), _bytes_of(store, state))


def tidy(store: Store, said_bytes: int | None, cause: Cause) -> None:
    """`collect` for whoever has done something else: if it cannot be now, the next installation does it."""
    with suppress(StoreError), store.installing():
        collect(store, budget_of(store.folder, said_bytes), cause)


def budget_of(folder: Path, said_bytes: int | None) -> int:
    """What was said, else a share of the disk that `folder` is on, or will be."""
    if said_bytes is not None:
        return said_bytes
    found = os.statvfs(next(path for path in (folder, *folder.absolute().parents) if path.exists()))
    return found.f_blocks * found.f_frsize // _SHARE


def _bytes_of(store: Store, state: State) -> int:
    return disk_bytes(path for package in state.packages.values() if (path := store.path(package)).is_dir())


def _cut_downloads(store: Store, state: State) -> list[Path]:
    newest_s = max((package.installed_s for package in state.packages.values()), default=0.0)
    return [path for path in sorted(store.incoming.iterdir()) if path.lstat().st_mtime < newest_s]


def _unknown(store: Store, state: State) -> list[Path]:
    return [path for path in sorted(store.packages.iterdir()) if path.name not in state.packages]
