"""The packages of a store in a daemon that runs: activated, on trial, committed or rolled back.

The state changes on disk first, in one rename; then requests move. So whatever ends the process, the next one starts
with what was decided. Everything here belongs to the event loop; the canary and the disk have threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from ..engine.engine import Engine
from ..errors import (
    ConfigError,
    EdgeQwenError,
    NoRoom,
    PackageError,
    PackageNotInstalled,
    SessionError,
    StoreError,
    TooHot,
    Unavailable,
)
from ..health.checks import Check
from ..models.model import Model
from ..models.registry import Models, Phase
from ..store import state as steps
from ..store.collect import tidy
from ..store.state import DAEMON, Cause, Installed, State
from ..store.store import Step, Store
from .canary import Canary, require_well, said_of
from .gate import Gate, Terms, Verdict
from .standing import Standing
from .witness import IDLE_S, Witness

T = TypeVar("T")
Report = Callable[[Phase, Sequence[Check]], None]
"""Hears how far an activation is; with "checking", when that has ended, what was found."""

PERIOD_S = 1.0
_NOT_ITS_FAULT = (TooHot, Unavailable, StoreError, NoRoom, ConfigError)
"""What keeps a package from serving and says nothing of it."""


@dataclass(frozen=True)
class Outcome:
    """What serves after a change was asked for, and whether that is another package, or another standing of it."""

    active: Installed
    changed: bool


class Rollouts:
    """Changes what `models` serve of `store`.

    Args:
        stalled: whether an engine hangs. Never blocks.
        terms: when a trial ends well.
        unnoted: what was done already, and the disk did not take.
        budget_bytes: what packages may take when one is committed; None: a share of the disk.
        now: Unix time, for the history.
        clock: monotonic seconds.
        period_s: between two looks at what is on trial.
        idle_s: how long nobody may have called before it is asked for a token.
    """

    def __init__(
        self,
        store: Store,
        models: Models,
        canary: Canary,
        terms: Terms,
        *,
        stalled: Callable[[Engine], bool],
        unnoted: Sequence[Step] = (),
        budget_bytes: int | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        period_s: float = PERIOD_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._store = store
        self._models = models
        self._canary = canary
        self._terms = terms
        self._stalled = stalled
        self._budget_bytes = budget_bytes
        self._now = now
        self._clock = clock
        self._period_s = period_s
        self._idle_s = idle_s
        self._unnoted = [*unnoted]
        self._state = self._noted(store.look())
        self._gate: Gate | None = None
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._switching = asyncio.Lock()
        self._disk = asyncio.Lock()  # what was read before a change must not be taken for what is there after it
        self._leaving = False
        self._log = structlog.get_logger()
        self.lost = asyncio.Event()
        """Set when what should serve could not be brought back: only a new process can, which starts from the store."""

    @property
    def standing(self) -> Standing:
        """What is known of it all, without asking the disk."""
        return Standing(self._state, self._terms, self._gate)

    async def refresh(self) -> Standing:
        """The same, of what is on disk now: installs change that too."""
        async with self._disk:
            self._state = self._noted(await asyncio.to_thread(self._store.look))
        return self.standing

    async def start(self) -> None:
        """Watches over the package that serves, if it is on trial."""
        if self._state.trial is not None:
            self._watch()
        if self._unnoted:
            self._go_alone(self._note())

    async def stop(self) -> None:
        """The daemon was told to end: that is no failed start of what is on trial, and what is under way ends too."""
        if self._leaving:
            return
        self._leaving = True
        self._canary.pause.end()
        await self._stop_watching()
        if self._state.trial is not None or self._state.attempt is not None:
            with suppress(StoreError):  # then it counts as one
                await self._change(steps.stopped)

    async def activate(
        self, wanted: str, *, by: str, allow_downgrade: bool = False, report: Report = lambda phase, checks: None
    ) -> Outcome:
        """Serves the installed package that `wanted` names, as `state.find` has it, once it has passed its canary.

        Once begun it goes on, even if the caller is cancelled. Raises PackageNotInstalled, DowngradeRefused,
        CanaryFailed, TooHot, StoreError, and what loading raises; then what served before serves.
        """
        return await self._go_on(self._activate(wanted, by, allow_downgrade, report))

    async def roll_back(self, *, by: str, why: str) -> Outcome:
        """Serves what served before. Raises NothingToRollBackTo, StoreError, PackageCorrupt if that is damaged,
        and what loading raises."""
        return await self._go_on(self._roll_back(Cause(self._now(), by, why)))

    async def commit(self, *, by: str, why: str) -> Outcome:
        """Keeps what serves. Raises StoreError."""
        return await self._go_on(self._commit(Cause(self._now(), by, why)))

    async def _activate(self, wanted: str, by: str, allow_downgrade: bool, report: Report) -> Outcome:
        async with self._switching:
            state = (await self.refresh()).state
            package = _named(state, wanted)
            step = partial(steps.activate, folder=package.folder, allow_downgrade=allow_downgrade)
            if step(state, cause=Cause(self._now(), by)) is state:
                await self._follow()
                return Outcome(package, False)
            if state.trial is None or package != state.previous_package:
                await self._switch(package, by, step, report)
                return Outcome(package, True)
        return await self._roll_back(Cause(self._now(), by, f"{package} was activated"))

    async def _switch(self, package: Installed, by: str, step: Callable[..., State], report: Report) -> None:
        """Loads `package`, tries it, flips the state, and moves requests over."""
        refused: EdgeQwenError | None = None
        await self._change(partial(steps.attempt, folder=package.folder))
        await self._stop_watching()  # whoever watches a model holds it, and its memory may be wanted
        before = await asyncio.to_thread(self._canary.before, self._serving())

        async def check(model: Model) -> None:
            nonlocal refused
            try:
                beside = self._serving() if before is not None else None
                found = await asyncio.to_thread(self._canary.try_out, model, before, beside)
                report("checking", found)
                require_well(package, found)
                if self._leaving:
                    raise Unavailable("the daemon is shutting down")
                await self._change(partial(step, cause=Cause(self._now(), by, said_of(found))))
            except EdgeQwenError as error:
                refused = error
                await self._note_refusal(package, by, error)  # now: an engine that hangs is not stopped in this process
                raise
            if self._state.trial is not None:
                self._watch()

        try:
            await self._models.load(
                self._store.path(package),
                replace=self._serving_name(),
                default=True,
                report=lambda phase: report(phase, ()),
                check=check,
            )
        except Exception as error:
            if refused is None:
                await self._note_refusal(package, by, error)
            await self._serve_on()
            if refused is not None:
                raise refused from error
            raise error if isinstance(error, EdgeQwenError) else SessionError(str(error)) from error
        self._log.info("activated", package=str(package), by=by)

    async def _note_refusal(self, package: Installed, by: str, why: Exception) -> None:
        """In the history, unless it says nothing of the package. The attempt is over."""
        self._log.warning("not activated", package=str(package), reason=str(why))
        step: Callable[..., State] = steps.attempt_over
        if not isinstance(why, _NOT_ITS_FAULT):
            step = partial(steps.refuse, cause=Cause(self._now(), by, str(why)))
        with suppress(StoreError, PackageNotInstalled):  # it may be gone from the disk
            await self._change(partial(step, folder=package.folder))

    async def _serve_on(self) -> None:
        """After an activation that failed, what the state says must be there, and is watched as before: what served
        before, or what somebody has gone back to meanwhile."""
        if self._leaving:
            return
        with suppress(Exception):  # what failed is what the caller hears of
            await self._follow()
        if self._state.trial is not None:
            self._watch()

    async def _roll_back(self, cause: Cause) -> Outcome:
        await asyncio.to_thread(self._store.require_way_back, self._state)
        state, changed = await self._flip_back(cause)
        if changed:
            await self._stop_watching()
        await self._follow_in_turn()
        return Outcome(_active(state), changed)

    async def _commit(self, cause: Cause) -> Outcome:
        state, changed = await self._keep(cause)
        if changed:
            await self._stop_watching()
        return Outcome(_active(state), changed)

    async def _flip_back(self, cause: Cause, folder: str | None = None) -> tuple[State, bool]:
        """Of `folder` only, if it is given: somebody else may have been faster."""
        failed = self._state.active_package
        state, changed = await self._change(_only_of(folder, partial(steps.roll_back, cause=cause)))
        if changed:
            self._log.warning("rolled back", package=str(failed), reason=cause.why, by=cause.by)
        return state, changed

    async def _keep(self, cause: Cause, folder: str | None = None) -> tuple[State, bool]:
        """Likewise."""
        state, changed = await self._change(_only_of(folder, partial(steps.commit, cause=cause)))
        if changed:
            self._log.info("committed", package=str(state.active_package), reason=cause.why, by=cause.by)
            await asyncio.to_thread(tidy, self._store, self._budget_bytes, cause)
        return state, changed

    async def _follow_in_turn(self) -> None:
        async with self._switching:
            await self._follow()

    async def _follow(self) -> None:
        """Serves what the state says."""
        if self._serving() is not None:
            return
        package = _active(self._state)
        try:
            await self._models.load(self._store.path(package), replace=self._serving_name(), default=True)
        except Exception as error:
            self._log.error("not served", package=str(package), reason=str(error))
            if not self._leaving:
                self.lost.set()
            raise

    def _serving(self) -> Model | None:
        """The model of the active package, if it takes requests."""
        active = self._state.active_package
        return next((m for m in self._models.ready if active and m.facts.build_digest == active.digest), None)

    def _serving_name(self) -> str:
        """What the model of a package of the store that takes requests is called; empty if there is none."""
        roots = ((model.name, model.package.root) for model in self._models.ready if model.package)
        return next((name for name, root in roots if root.parent == self._store.packages), "")

    def _watch(self) -> None:
        """Over the active package, until its trial has ended."""
        package = _active(self._state)
        if self._watching is not None:
            self._watching.cancel()
        gate = self._gate = Gate(self._terms, self._clock())
        self._watching = self._go_alone(self._run(package, gate))

    async def _stop_watching(self) -> None:
        watching, self._watching, self._gate = self._watching, None, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])

    async def _run(self, package: Installed, gate: Gate) -> None:
        """Until `gate` has decided, and what it decided is on disk."""
        witness: Witness | None = None
        asking: asyncio.Task[None] | None = None
        said = ""
        while True:
            await asyncio.sleep(self._period_s)
            model = self._serving()
            if model is None:  # it comes, or somebody has unloaded it: there is nothing to see
                witness = None
                continue
            if witness is None:
                witness = Witness(model, self._stalled, self._canary.patience_s, idle_s=self._idle_s)
            if witness.due and (asking is None or asking.done()):
                asking = asyncio.create_task(asyncio.to_thread(witness.ask))
            try:
                if await self._decide(package, gate, gate.update(witness.look(self._clock()))):
                    break
            except StoreError as error:  # once more in a second: the disk may be full
                if said != (said := str(error)):
                    self._log.warning("the store cannot be changed", detail=said)
        if self._gate is gate:
            self._gate = None

    async def _decide(self, package: Installed, gate: Gate, verdict: Verdict) -> bool:
        """Does what the verdict says; whether that ends the trial."""
        cause, trial = Cause(self._now(), DAEMON, verdict.why), self._state.trial
        if verdict.action == "commit":
            await self._keep(cause, package.folder)
            return True
        if verdict.action == "roll_back":
            if why_not := await self._no_way_back():
                self._log.warning("not rolled back", package=str(package), reason=verdict.why, detail=why_not)
                gate.begin_again()
                return False
            await self._flip_back(cause, package.folder)
            self._go_alone(self._follow_in_turn())  # whoever watches a model holds it, so this task must end first
            return True
        if gate.settled and trial is not None and not trial.healthy:
            await self._change(steps.became_healthy)
        return False

    async def _no_way_back(self) -> str:
        """Why not; empty if there is one. No digests: what hangs must have lost its slot before the watchdog bites."""
        if self._state.previous_package is None:
            return "it is the first package here"
        try:
            await asyncio.to_thread(self._store.require_way_back, self._state, verify=False)
        except PackageError as error:
            return str(error)
        return ""

    async def _change(self, step: Step) -> tuple[State, bool]:
        """The state after `step`, and whether it is another one."""
        before = self._state

        def from_here(state: State) -> State:
            nonlocal before
            before = self._noted(state)
            return step(before)

        async with self._disk:
            self._state = await asyncio.to_thread(self._store.change, from_here)
            self._unnoted.clear()
            return self._state, self._state is not before

    def _noted(self, state: State) -> State:
        """`state`, with what the disk has not taken yet."""
        for step in self._unnoted:
            state = step(state)
        return state

    async def _note(self) -> None:
        """Tells the disk what it did not take, until it does: it may have been full."""
        while self._unnoted and not self._leaving:
            with suppress(StoreError):
                await self._change(lambda state: state)
            await asyncio.sleep(self._period_s)

    async def _go_on(self, change: Coroutine[Any, Any, T]) -> T:
        """To its end, also without whoever asked for it: half of a change is no state to be in."""
        return await asyncio.shield(self._go_alone(change))

    def _go_alone(self, change: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, EdgeQwenError):
            self._log.error("a change of packages failed", exc_info=error)


def _named(state: State, wanted: str) -> Installed:
    """Raises PackageNotInstalled."""
    if not state.packages:
        raise PackageNotInstalled("no package is installed: edgeqwen install REF")
    return steps.find(state, wanted)


def _active(state: State) -> Installed:
    """Raises PackageNotInstalled."""
    if state.active_package is None:
        raise PackageNotInstalled("no package is active: edgeqwen activate")
    return state.active_package


def _only_of(folder: str | None, step: Step) -> Step:
    """`step`, while `folder` is the active package; None: whichever is."""

    def only(state: State) -> State:
        active = state.active_package
        return step(state) if folder is None or (active is not None and active.folder == folder) else state

    return only
