"""What a daemon that starts serves from its store: the active package, or the one before if that does not work.

A start is counted before anything is loaded, so that a package which takes the process or the machine down with it is
given up after a few. One that fails without that is given up at once, and what served before is loaded instead.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import structlog

from ..errors import PackageError, StateNewer, StoreBusy, StoreError
from ..health.checks import Check
from ..memory import trim_after_unload
from ..models.model import Model
from ..store.state import DAEMON, Cause, Installed, State, booted, interrupted, roll_back
from ..store.store import Step, Store
from .canary import require_well

MOST_STARTS = 3
"""That a package on trial may have, none of which ended as it should."""


def hold(store: Store) -> ExitStack:
    """Nobody else says what serves from `store` until this is closed. Raises StoreBusy.

    Where nothing can be written nobody could say it anyhow.
    """
    held = ExitStack()
    try:
        held.enter_context(store.serving())
    except StoreBusy:
        raise
    except StoreError as error:
        structlog.get_logger().error("the store cannot be changed", detail=str(error))
    return held


class Boot:
    """Loads from `store`.

    Args:
        load: a package at a path; its engine is not started.
        try_out: the canary, for a model whose engine runs and is on trial.
        now: Unix time.
    """

    def __init__(
        self,
        store: Store,
        load: Callable[[Path], Model],
        try_out: Callable[[Model], list[Check]],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._load = load
        self._try_out = try_out
        self._now = now
        self.unnoted: list[Step] = []
        """Steps that were taken, and that the disk did not take."""
        self._log = structlog.get_logger()

    def model(self) -> Model:
        """A model that works, whose engine runs. Raises what the last package raises that there is to load."""
        state = self._state()
        if state.attempt is not None:
            cause = Cause(self._now(), DAEMON, "the daemon before this one ended while it tried it")
            state = self._change(state, partial(interrupted, cause=cause))
        if state.trial is not None and state.trial.starts >= MOST_STARTS and state.previous_package is not None:
            state = self._back(state, f"{state.trial.starts} starts with it did not end as they should")
        while True:
            if state.trial is not None:
                state = self._change(state, booted)
            package = state.active_package
            if package is None:
                raise PackageError(f"no package is active in {self._store.folder}: edgeqwen install REF --activate")
            try:
                return self._start(package, on_trial=state.trial is not None)
            except Exception as error:
                if state.previous_package is None or (state.trial is None and not isinstance(error, PackageError)):
                    raise
                traceback.clear_frames(error.__traceback__)  # the model may be in them
                state = self._back(state, f"it did not start: {error}")
            trim_after_unload()

    def _state(self) -> State:
        """Put right where it is damaged, though not on disk where nothing can be written."""
        try:
            return self._store.open()
        except StateNewer:
            raise
        except StoreError as error:
            self._log.error("the store cannot be changed", detail=str(error))
            return self._store.look()

    def _start(self, package: Installed, *, on_trial: bool) -> Model:
        model = self._load(self._store.path(package))
        model.engine.start()
        if on_trial:
            try:
                require_well(package, self._try_out(model))
            except BaseException:
                model.engine.stop()
                raise
        return model

    def _back(self, state: State, why: str) -> State:
        self._log.error("rolled back", package=str(state.active_package), reason=why)
        return self._change(state, partial(roll_back, cause=Cause(self._now(), DAEMON, why)))

    def _change(self, state: State, step: Step) -> State:
        """A store that cannot be written to, as on a full disk, is no reason to serve nothing: it is noted later."""
        try:
            return self._store.change(step)
        except StoreError as error:
            self._log.error("the store cannot be changed", detail=str(error))
            self.unnoted.append(step)
            return step(state)
