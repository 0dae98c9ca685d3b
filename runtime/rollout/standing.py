"""What is told of a store's packages: to telemetry, to the health report, and to whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

from ..health.checks import Check, Status
from ..store.state import DAEMON, Entry, State
from .gate import Gate, Terms

REMEMBERED_S = 3600.0
"""For so long, or until the next activation, a rollback that nobody asked for makes health degraded."""


@dataclass(frozen=True)
class Served:
    """The package that serves; the fields are those of `ServedPackage` in telemetry.proto."""

    model: str
    version: str
    slot: str
    trial: bool
    rollbacks_total: int


@dataclass(frozen=True)
class Standing:
    """One consistent reading. `gate` is there while a trial is watched."""

    state: State
    terms: Terms
    gate: Gate | None

    @property
    def served(self) -> Served | None:
        """None where nothing is active."""
        active, slot = self.state.active_package, self.state.active
        if active is None or slot is None:
            return None
        return Served(active.name, active.version, slot, self.state.trial is not None, self.state.rollbacks)

    def check(self, now_s: float) -> Check:
        """What an operator should know of it at `now_s`, Unix time."""
        active, trial = self.state.active_package, self.state.trial
        last = self._last_change()
        undone = ""
        if (
            last is not None
            and last.event == "rolled_back"
            and last.by == DAEMON
            and abs(now_s - last.time_s) < REMEMBERED_S  # the clock may have been ahead then
        ):
            undone = f"{last.package} {last.version} was rolled back {_minutes(now_s - last.time_s)} ago: {last.why}"
        if undone:
            return Check("rollout", Status.DEGRADED, f"{undone.rstrip('.')}; {active} serves.", _LOOK)
        if trial is None:
            return Check("rollout", Status.OK, f"{active} is committed.")
        summary = f"{active} is on trial since {_minutes(now_s - trial.since_s)}"
        if self.gate is None:
            return Check("rollout", Status.OK, f"{summary}.")
        if self.gate.last.fault:
            return Check("rollout", Status.DEGRADED, f"{summary}, and not well: {self.gate.last.fault}.", _LATER)
        left_s = max(0.0, self.terms.commit_after_s - self.gate.healthy_s)
        calls = max(0, self.terms.commit_after_calls - self.gate.last.calls)
        summary += f"; it is committed in {_minutes(left_s)} if it stays well, or after {calls} more calls."
        return Check("rollout", Status.OK, summary)

    def _last_change(self) -> Entry | None:
        """Of what serves."""
        changes = ("activated", "committed", "rolled_back")
        return next((entry for entry in reversed(self.state.history) if entry.event in changes), None)


_LOOK = "`edgeqwen history` has more. Mend the package, and install it under a higher version."
_LATER = "If it stays so it is rolled back by itself."


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{max(0.0, seconds):.0f} s"
