"""What is installed, what serves, and what happened. Pure: each function is one step from a state to the next.

A step that changes nothing returns the state that it was given, so whoever asks twice learns that the second time did
nothing. `trial` is the time between a switch and its commit: the slot that is not active is then what a rollback goes
back to. The first package of a device has nothing behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ..errors import DowngradeRefused, NothingToRollBackTo, PackageNotInstalled

SlotName = Literal["a", "b"]
Event = Literal[
    "installed", "activated", "refused", "interrupted", "committed", "rolled_back", "collected", "repaired", "recovered"
]

DAEMON = "edgeqwend"
"""Who did what nobody asked for."""
MAX_HISTORY = 500
MOST_INTERRUPTIONS = 3
"""Of attempts with one package: then it failed. Fewer may be power cuts."""
MAX_WHY = 1000


@dataclass(frozen=True)
class Installed:
    """A package of the store.

    Args:
        folder: its name below `packages/`: NAME-VERSION-DIGEST12.ortpackage.
        digest: SHA-256 of its `build.json`, in hex.
        signer: who signed it, in words; empty if nobody did, and whoever installed it allowed that.
        installed_s: when, in Unix time.
    """

    folder: str
    name: str
    version: str
    variant: str
    digest: str
    signer: str
    installed_s: float

    def __post_init__(self) -> None:
        if "/" in self.folder or self.folder.startswith("."):
            raise ValueError(f"{self.folder!r} is no folder of the store")
        if len(version_order(self.version)) != 3:
            raise ValueError(f"{self.version!r} is no version")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Trial:
    """Of the active slot's package.

    Args:
        since_s: when it was activated, in Unix time.
        starts: of the daemon with it, that did not end as they should; none from before it was first healthy.
        healthy: whether it ever was.
    """

    since_s: float
    starts: int = 0
    healthy: bool = False


@dataclass(frozen=True)
class Cause:
    """Of a step: when, in Unix time, by whom (`edgeqwend`, or a user's name), and why."""

    time_s: float
    by: str
    why: str = ""


@dataclass(frozen=True)
class Entry:
    """One line of the history."""

    time_s: float
    event: Event
    package: str
    version: str
    digest: str
    slot: SlotName | None
    why: str
    by: str


@dataclass(frozen=True)
class Slots:
    """Folders of packages, as `State.packages` has them."""

    a: str | None = None
    b: str | None = None

    def __getitem__(self, name: SlotName) -> str | None:
        return self.a if name == "a" else self.b

    def having(self, name: SlotName, folder: str | None) -> Slots:
        return replace(self, a=folder) if name == "a" else replace(self, b=folder)


@dataclass(frozen=True)
class State:
    """All that a device knows of its packages.

    Args:
        packages: by folder, in the order in which they were installed.
        committed: the highest version ever committed, by package name.
        history: newest last.
        rollbacks: how many there ever were, also those that the history has forgotten.
        attempt: the folder of a package that a daemon is loading and trying, before any slot names it.
    """

    packages: Mapping[str, Installed] = field(default_factory=dict)
    slots: Slots = Slots()
    active: SlotName | None = None
    trial: Trial | None = None
    committed: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Entry, ...] = ()
    rollbacks: int = 0
    attempt: str | None = None

    def __post_init__(self) -> None:
        named = [folder for folder in (self.slots.a, self.slots.b) if folder is not None]
        if len(set(named)) < len(named):
            raise ValueError("both slots name one package")
        if self.attempt is not None and self.attempt not in self.packages:
            raise ValueError("a package is tried that is not installed")
        if not self.packages.keys() >= set(named):
            raise ValueError("a slot names a package that is not installed")
        if any(folder != package.folder for folder, package in self.packages.items()):
            raise ValueError("a package is listed under another's folder")
        if (self.active is None) != (not named) or (self.active is not None and self.slots[self.active] is None):
            raise ValueError("the active slot is empty")
        if self.trial is not None and self.active is None:
            raise ValueError("there is a trial of nothing")

    @property
    def active_package(self) -> Installed | None:
        """What serves, or will when the daemon starts."""
        return self._in_slot(self.active)

    @property
    def previous_package(self) -> Installed | None:
        """What a rollback goes back to."""
        return self._in_slot(_other(self.active)) if self.active is not None else None

    @property
    def in_use(self) -> frozenset[str | None]:
        """Folders that stay on the disk."""
        return frozenset({self.slots.a, self.slots.b, self.attempt})

    def _in_slot(self, name: SlotName | None) -> Installed | None:
        folder = self.slots[name] if name is not None else None
        return self.packages[folder] if folder is not None else None


def install(state: State, package: Installed, cause: Cause) -> State:
    """`package` is in the store, whole and verified."""
    have = state.packages.get(package.folder)
    if have is not None and have == replace(package, installed_s=have.installed_s):
        return state
    added = replace(state, packages={**state.packages, package.folder: package})
    return _noted(added, "installed", package, None, cause)


def require_no_downgrade(state: State, name: str, version: str) -> None:
    """Raises DowngradeRefused for a version below the highest that was ever committed."""
    highest = state.committed.get(name)
    if highest is not None and version_order(version) < version_order(highest):
        raise DowngradeRefused(name, version, highest)


def activate(state: State, folder: str, cause: Cause, *, allow_downgrade: bool = False) -> State:
    """`folder` serves from now on, on trial.

    It takes the slot that does not serve. During a trial it takes the trial's, as what came before is what is known to
    work; naming that ends the trial, as `roll_back` does. Raises PackageNotInstalled or DowngradeRefused.
    """
    package = installed(state, folder)
    state = attempt_over(state, folder)
    if state.active is not None and state.slots[state.active] == folder:
        return state
    if state.trial is not None and package == state.previous_package:
        return roll_back(state, cause)
    if not allow_downgrade:
        require_no_downgrade(state, package.name, package.version)
    slot = _slot_for_next(state)
    slots = state.slots.having(slot, folder)
    return _noted(
        replace(state, slots=slots, active=slot, trial=Trial(cause.time_s)), "activated", package, slot, cause
    )


def attempt(state: State, folder: str) -> State:
    """A daemon is about to load `folder` and to try it. If that takes the daemon with it, the next one knows of it."""
    return replace(state, attempt=installed(state, folder).folder)


def attempt_over(state: State, folder: str) -> State:
    """The daemon has lived through its attempt with `folder`."""
    return replace(state, attempt=None) if state.attempt == folder else state


def interrupted(state: State, cause: Cause) -> State:
    """The daemon ended in the middle of an attempt, be it by its package, for lack of memory or by a power cut."""
    if state.attempt is None:
        return state
    return _noted(replace(state, attempt=None), "interrupted", installed(state, state.attempt), None, cause)


def refuse(state: State, folder: str, cause: Cause) -> State:
    """`folder` was to serve, and was found wanting before it did."""
    return _noted(attempt_over(state, folder), "refused", installed(state, folder), None, cause)


def booted(state: State) -> State:
    """The daemon starts, and is about to load what is on trial."""
    return _tried(state, lambda trial: replace(trial, starts=trial.starts + 1))


def became_healthy(state: State) -> State:
    """What is on trial serves well since a while: its starts count no longer."""
    return _tried(state, lambda trial: replace(trial, starts=0, healthy=True))


def stopped(state: State) -> State:
    """The daemon was told to end, and does: neither this start of a trial nor an attempt under way has failed."""
    state = replace(state, attempt=None) if state.attempt is not None else state
    return _tried(state, lambda trial: replace(trial, starts=max(0, trial.starts - 1)))


def commit(state: State, cause: Cause) -> State:
    """What is on trial has proved itself."""
    package = state.active_package
    if state.trial is None or package is None:
        return state
    highest = max(package.version, state.committed.get(package.name, package.version), key=version_order)
    committed = {**state.committed, package.name: highest}
    return _noted(replace(state, trial=None, committed=committed), "committed", package, state.active, cause)


def roll_back(state: State, cause: Cause) -> State:
    """What served before serves again. The slot of what failed is empty then, so nothing ever goes back to that.

    Without a trial this undoes a commit; the highest committed version stays. Raises NothingToRollBackTo where a first
    package is on trial; without a trial it is a step that changes nothing.
    """
    failed, slot = state.active_package, state.active
    if failed is None or slot is None:
        return state
    if state.previous_package is None:
        if state.trial is None:
            return state
        raise NothingToRollBackTo(f"{failed} is the first package here: there is none to go back to")
    slots = state.slots.having(slot, None)
    back = replace(state, slots=slots, active=_other(slot), trial=None, rollbacks=state.rollbacks + 1)
    return _noted(back, "rolled_back", failed, slot, cause)


def repaired(state: State, folder: str, cause: Cause) -> State:
    """Damaged files of `folder` were replaced."""
    return _noted(state, "repaired", installed(state, folder), None, cause)


def forget(state: State, folder: str, cause: Cause) -> State:
    """`folder` is about to leave the disk, unless a slot names it or a daemon tries it."""
    package = installed(state, folder)
    if folder in state.in_use:
        return state
    packages = {name: its for name, its in state.packages.items() if name != folder}
    return _noted(replace(state, packages=packages), "collected", package, None, cause)


def without(state: State, missing: Collection[str], cause: Cause) -> State:
    """The packages `missing` are on the disk no more. Where the active one is among them, the other slot's serves."""
    slots = Slots(*(None if folder in missing else folder for folder in (state.slots.a, state.slots.b)))
    packages = {folder: its for folder, its in state.packages.items() if folder not in missing}
    active, trial = state.active, state.trial
    if active is not None and slots[active] is None:
        other = _other(active)
        active, trial = (other if slots[other] is not None else None), None
    attempt = state.attempt if state.attempt in packages else None
    left = replace(state, packages=packages, slots=slots, active=active, trial=trial, attempt=attempt)
    return _noted(left, "recovered", left.active_package, active, cause)


def rebuilt(found: Sequence[Installed], cause: Cause) -> State:
    """A state for packages of which nothing is known but that they are here, the newest first.

    The newest is on trial, and the one before it is what a rollback goes back to.
    """
    a, b = (*(package.folder for package in found[:2]), None, None)[:2]
    committed: dict[str, str] = {}
    for package in found:
        committed[package.name] = max(package.version, committed.get(package.name, package.version), key=version_order)
    state = State(
        packages={package.folder: package for package in reversed(found)},
        slots=Slots(a, b),
        active="a" if a else None,
        trial=Trial(cause.time_s) if a else None,
        committed=committed,
    )
    return _noted(state, "recovered", state.active_package, state.active, cause)


def installed(state: State, folder: str) -> Installed:
    """Raises PackageNotInstalled."""
    try:
        return state.packages[folder]
    except KeyError:
        if not state.packages:
            raise PackageNotInstalled("no package is installed: edgeqwen install REF") from None
        have = ", ".join(sorted(state.packages))
        raise PackageNotInstalled(f"no package {folder} is installed; there are: {have}") from None


def find(state: State, wanted: str) -> Installed:
    """The package whose folder, NAME-VERSION, version or name is `wanted`; the one installed last for "".

    Where several fit, as two builds of a version do, it is the one installed last. Raises PackageNotInstalled.
    """
    for package in reversed([*state.packages.values()]):
        if wanted == "" or wanted in names_of(package.folder, package.name, package.version):
            return package
    return installed(state, wanted)


def names_of(folder: str, name: str, version: str) -> tuple[str, ...]:
    """What people may call a package."""
    return folder, folder.rpartition(".")[0], f"{name}-{version}", version, name


def last_failure(state: State, package: Installed) -> Entry | None:
    """How `package` failed when it was tried last; None if it did not, or was never tried.

    A rollback that a person asked for says nothing of the package, and neither does a daemon that ended while it tried
    it, unless it did so `MOST_INTERRUPTIONS` times in a row.
    """
    interruptions = 0
    for entry in reversed(state.history):
        if entry.digest != package.digest[:12]:
            continue
        if entry.event == "interrupted":
            interruptions += 1
            if interruptions == MOST_INTERRUPTIONS:
                return entry
        elif entry.event in ("activated", "refused", "rolled_back"):
            return entry if entry.event == "refused" or (entry.event == "rolled_back" and entry.by == DAEMON) else None
    return None


def version_order(version: str) -> tuple[int, ...]:
    """What versions are compared by: 1.10.0 comes after 1.9.0."""
    return tuple(int(part) for part in version.split("."))


def _other(slot: SlotName) -> SlotName:
    return "b" if slot == "a" else "a"


def _slot_for_next(state: State) -> SlotName:
    if state.active is None:
        return "a"
    return state.active if state.trial is not None else _other(state.active)


def _tried(state: State, step: Callable[[Trial], Trial]) -> State:
    if state.trial is None or (trial := step(state.trial)) == state.trial:
        return state
    return replace(state, trial=trial)


def _noted(state: State, event: Event, package: Installed | None, slot: SlotName | None, cause: Cause) -> State:
    which = (package.name, package.version, package.digest[:12]) if package is not None else ("", "", "")
    entry = Entry(cause.time_s, event, *which, slot, cause.why[:MAX_WHY], cause.by)
    return replace(state, history=(*state.history, entry)[-MAX_HISTORY:])
