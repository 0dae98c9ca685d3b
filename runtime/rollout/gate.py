"""The health gate: decides when a package on trial is kept, and when it is given up. Pure: the caller tells the time.

Each second of a trial is one in which the package was well or one in which it was not, and both are summed up: enough
of the first commits it, too much of the second rolls it back. So a package that is now well and now not does not stay
on trial for good. A second in which nobody asked is a good one: the `witness` asks then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FAILED_S = 60.0
"""In a trial, that a package may be unwell: a load, a busy board or a passing fault take less."""
SETTLE_S = 60.0
"""That it must have been well before its starts count no longer, and before calls alone commit it."""
_LONGEST_S = 5.0  # between two looks, that counts: the rest nobody saw
_FEW_BROKEN, _BROKEN_SHARE = 3, 0.05  # calls that the model broke: that many, and of all calls


@dataclass(frozen=True)
class Terms:
    """When a trial ends well: after so many seconds of being well, or after so many calls that ended well."""

    commit_after_s: float
    commit_after_calls: int

    @property
    def settle_s(self) -> float:
        return min(SETTLE_S, self.commit_after_s)


@dataclass(frozen=True)
class Look:
    """How the package is.

    Args:
        now_s: monotonic seconds.
        fault: why it is not well; empty if it is.
        stalled: whether the engine hangs, which nothing but another process ends.
        calls: that ended well in this trial.
        broken: that ended because the model failed.
    """

    now_s: float
    fault: str = ""
    stalled: bool = False
    calls: int = 0
    broken: int = 0


@dataclass(frozen=True)
class Verdict:
    """What to do with the package, and why; no reason to wait."""

    action: Literal["wait", "commit", "roll_back"]
    why: str = ""


WAIT = Verdict("wait")


class Gate:
    """Of one trial, in one process."""

    def __init__(self, terms: Terms, now_s: float) -> None:
        self._terms = terms
        self._looked_s = now_s
        self.last = Look(now_s)
        self.begin_again()

    def begin_again(self) -> None:
        """Forgets what it has seen: there was nothing to do about it."""
        self.healthy_s = 0.0
        self.failed_s = 0.0

    @property
    def settled(self) -> bool:
        """Whether it has been well for long enough to say that it runs here."""
        return self.healthy_s >= self._terms.settle_s

    def update(self, look: Look) -> Verdict:
        """The verdict after a look; looks come once a second."""
        seen_s = min(_LONGEST_S, max(0.0, look.now_s - self._looked_s))
        self._looked_s, self.last = look.now_s, look
        if look.fault:
            self.failed_s += seen_s
        else:
            self.healthy_s += seen_s
        return self._give_up(look) or self._keep(look) or WAIT

    def _give_up(self, look: Look) -> Verdict | None:
        if look.stalled:
            return Verdict("roll_back", "the engine hangs")
        if look.broken >= _FEW_BROKEN and look.broken > _BROKEN_SHARE * (look.calls + look.broken):
            return Verdict("roll_back", f"the model broke {look.broken} of {look.calls + look.broken} calls")
        if look.fault and self.failed_s > FAILED_S:
            return Verdict("roll_back", f"for {self.failed_s:.0f} s it was not well: {look.fault}")
        return None

    def _keep(self, look: Look) -> Verdict | None:
        if look.fault:
            return None
        if self.healthy_s >= self._terms.commit_after_s:
            return Verdict("commit", f"well for {self.healthy_s:.0f} s, in which {look.calls} calls ended well")
        if look.calls >= self._terms.commit_after_calls and self.settled:
            return Verdict("commit", f"{look.calls} calls ended well, in {self.healthy_s:.0f} s")
        return None
