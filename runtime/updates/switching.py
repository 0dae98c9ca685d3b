"""Which installed package serves: changed by the daemon where one runs, else in the store for its next start."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

from edgeqwen.client import Client, Connection, ServerUnavailable
from edgeqwen.v1 import health_pb2, rollout_pb2

from ..errors import CanaryFailed, StillOnTrial
from ..reach import somebody_listens
from ..store import state as steps
from ..store.state import Cause, Installed, State
from ..store.store import Step, Store

_LOOK_S = 1.0
_START_S = 60.0  # that a daemon may take to answer, from when it has the store
_POLL_S = 0.2

Note = Callable[[str], None]


@dataclass(frozen=True)
class Serving:
    """What serves, or will when the daemon starts."""

    folder: str
    name: str
    version: str
    slot: str
    trial: bool

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def is_called(self, wanted: str) -> bool:
        """Whether `wanted` means this, as `state.find` has it."""
        return wanted in steps.names_of(self.folder, self.name, self.version)


@dataclass(frozen=True)
class Switched:
    """What serves after a change was asked for. `serving` is None where nothing was ever activated.

    Args:
        changed: whether it is another package, or another standing of it.
        by_daemon: that runs and serves it; else it will when it starts.
        checks: what its canary found, by name.
    """

    serving: Serving | None
    changed: bool
    by_daemon: bool
    checks: Mapping[str, str]


class Switch(Protocol):
    """What changes it. Every method raises EdgeQwenError, or edgeqwen.client's ClientError."""

    def serving(self) -> Serving | None:
        """What serves now."""

    def activate(self, folder: str, *, allow_downgrade: bool, note: Note) -> Switched:
        """`folder` serves, on trial; `note` hears how far it is."""

    def roll_back(self, why: str, *, if_active: str | None = None) -> Switched:
        """What served before serves again; with `if_active` only if that is what serves now."""

    def commit(self, why: str) -> Switched:
        """What is on trial is kept."""


def switch_of(connection: Connection, store: Store, by: str, note: Note, *, patience_s: float = _START_S) -> Switch:
    """The daemon at `connection`, also one that starts; where it should be on this machine and there is none, the store
    itself, changed by `by`."""
    if not connection.is_here:
        return DaemonSwitch(connection)
    deadline, told = time.monotonic() + patience_s, False
    while not somebody_listens(connection.address):
        if not store.is_served or time.monotonic() >= deadline:
            return StoreSwitch(store, by)
        if not told:
            note(f"an edgeqwend has {store.folder} and does not answer at {connection.address} yet: waiting for it")
            told = True
        time.sleep(_POLL_S)
    return DaemonSwitch(connection)


class StoreSwitch:
    """Changes the state that a daemon starts from. Raises StoreBusy while one has the store."""

    def __init__(self, store: Store, by: str) -> None:
        self._store, self._by = store, by

    def serving(self) -> Serving | None:
        return _serving_of(self._store.read())

    def activate(self, folder: str, *, allow_downgrade: bool, note: Note) -> Switched:
        why = "no daemon runs: it is tried when one starts"
        return self._change(
            partial(steps.activate, folder=folder, cause=self._cause(why), allow_downgrade=allow_downgrade)
        )

    def roll_back(self, why: str, *, if_active: str | None = None) -> Switched:
        def step(state: State) -> State:
            if not _is_meant(_serving_of(state), if_active):
                return state
            self._store.require_way_back(state)
            return steps.roll_back(state, self._cause(why))

        return self._change(step)

    def commit(self, why: str) -> Switched:
        return self._change(partial(steps.commit, cause=self._cause(why)))

    def _cause(self, why: str) -> Cause:
        return Cause(time.time(), self._by, why)

    def _change(self, step: Step) -> Switched:
        with self._store.serving():
            state, changed = self._store.change_told(step)
        return Switched(_serving_of(state), changed, by_daemon=False, checks={})


class DaemonSwitch:
    """Asks the daemon, which tries a package before requests go to it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def serving(self) -> Serving | None:
        with Client(self._connection) as client:
            return _serving_at(client)

    def activate(self, folder: str, *, allow_downgrade: bool, note: Note) -> Switched:
        checks: dict[str, str] = {}
        last = rollout_pb2.ActivateResponse()
        with Client(self._connection) as client:
            with closing(client.activate(folder, allow_downgrade=allow_downgrade)) as replies:
                for last in replies:
                    checks |= {check.name: check.summary for check in last.checks}
                    _tell(last, note)
            serving = _serving_at(client)
        if serving is None or serving.folder != last.active.folder:
            raise _rolled_back(last.active.folder)
        return Switched(serving, last.changed, by_daemon=True, checks=checks)

    def roll_back(self, why: str, *, if_active: str | None = None) -> Switched:
        with Client(self._connection) as client:
            changed = _is_meant(_serving_at(client), if_active) and client.roll_back(why).changed
            return Switched(_serving_at(client), changed, by_daemon=True, checks={})

    def commit(self, why: str) -> Switched:
        with Client(self._connection) as client:
            changed = client.commit(why).changed
            return Switched(_serving_at(client), changed, by_daemon=True, checks={})


def wait_for_verdict(switch: Switch, folder: str, seconds: float) -> Serving:
    """Returns `folder` when it is committed. A daemon that is started again meanwhile is waited for.

    Raises CanaryFailed if something else serves then, and StillOnTrial.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            serving = switch.serving()
        except ServerUnavailable:
            if time.monotonic() >= deadline:
                raise
        else:
            if serving is None or serving.folder != folder:
                raise _rolled_back(folder)
            if not serving.trial:
                return serving
            if time.monotonic() >= deadline:
                raise still_on_trial(serving, seconds)
        time.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))


def still_on_trial(package: object, seconds: float) -> StillOnTrial:
    """What to say of `package` where that was waited for."""
    return StillOnTrial(f"{package} is still on trial after {seconds:g} s: `edgeqwen health` has how it goes")


def require_no_failure(state: State, package: Installed) -> None:
    """Raises CanaryFailed for a package that was tried here, by itself or by its canary, and failed."""
    entry = steps.last_failure(state, package)
    if entry is not None and package != state.active_package:
        when = datetime.fromtimestamp(entry.time_s).astimezone().strftime("%Y-%m-%d %H:%M")
        event = entry.event.replace("_", " ")
        raise CanaryFailed(f"{package} was {event} here on {when} ({entry.why}): --again tries it once more")


def _is_meant(serving: Serving | None, wanted: str | None) -> bool:
    return wanted is None or (serving is not None and serving.is_called(wanted))


def _rolled_back(folder: str) -> CanaryFailed:
    return CanaryFailed(f"{folder} served and was rolled back: `edgeqwen history` has the reason")


def _tell(reply: rollout_pb2.ActivateResponse, note: Note) -> None:
    if not reply.checks:
        note(rollout_pb2.ActivationPhase.Name(reply.phase).removeprefix("ACTIVATION_PHASE_").lower())
    for check in reply.checks:
        status = health_pb2.CheckStatus.Name(check.status).removeprefix("CHECK_STATUS_").lower()
        note(f"{status}: {check.name}: {check.summary}")


def _serving_of(state: State) -> Serving | None:
    package = state.active_package
    if package is None:
        return None
    return Serving(package.folder, package.name, package.version, state.active or "", state.trial is not None)


def _serving_at(client: Client) -> Serving | None:
    reply = client.rollout()
    if not reply.HasField("active"):
        return None
    active = reply.active
    return Serving(active.folder, active.name, active.version, active.slot, reply.HasField("trial"))
