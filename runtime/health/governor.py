"""Decides how far the engine is lowered when the board is too hot, and when it comes back. Pure.

Down: a level at a time, each given time to show in the temperature, and the next only if that does not fall by itself.
Up: a level at a time, once the board was well below the limit for a while. A level that turns out too much within an
hour is tried again only after twice as long, and so on up to half an hour, so that a board which is in balance between
two levels changes rarely instead of swinging. It knows nothing of the board but the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..engine.throttle import Throttle, half_power

_SETTLE_S = 10.0  # that a level has to show in the temperature
_FALLS_C = 0.5  # in that time: then the level is enough
_MUCH_C = 3.0  # above the limit: then falling is not enough
_COOL_C = 5.0  # below the limit: then it may do more
_COOL_S, _LONGEST_COOL_S = 30.0, 1800.0
_RELAPSE_S = 3600.0  # too hot again in that time: it was that level. Heavy boards take many minutes to show it
_READINGS = 2  # in a row: one alone may be noise


@dataclass(frozen=True)
class Decision:
    """How many levels down, and why; no reason at 0."""

    level: int
    reason: str


NORMAL = Decision(0, "")


class Governor:
    """Follows one board.

    Args:
        limit_c: degrees Celsius that it must not exceed.
        lowest: the highest number of levels that anything can be lowered by; may change.
    """

    def __init__(self, limit_c: float, lowest: int) -> None:
        self.limit_c = limit_c
        self.lowest = lowest
        self.decision = NORMAL
        self._hot_readings = 0
        self._settled_s: float | None = None  # until then the level shows what it does
        self._settled_from_c: float | None = None
        self._cool_since_s: float | None = None
        self._cool_s = _COOL_S  # that it has to be cool for now
        self._raised_s: float | None = None

    def update(self, now_s: float, hottest_c: float | None, throttled: Sequence[str] = ()) -> Decision:
        """The decision after a reading at `now_s`, monotonic seconds; readings come every few seconds.

        Args:
            hottest_c: None while no sensor answers: then nothing changes, unless the board throttles itself.
            throttled: what the board says that holds it back.
        """
        too_hot = hottest_c is not None and hottest_c >= self.limit_c
        if too_hot or throttled:
            self._hot(now_s, hottest_c, throttled)
        elif hottest_c is not None and hottest_c <= self.limit_c - _COOL_C:
            self._cool(now_s)
        else:
            self._hot_readings, self._cool_since_s = 0, None
        return self.decision

    def _hot(self, now_s: float, hottest_c: float | None, throttled: Sequence[str]) -> None:
        self._cool_since_s = None
        self._hot_readings += 1
        if self._hot_readings < _READINGS or (self._settled_s is not None and now_s < self._settled_s):
            return
        if throttled or self.decision.level == 0 or not self._falls(hottest_c):
            self._lower(now_s, hottest_c, throttled)
        self._settled_s, self._settled_from_c = now_s + _SETTLE_S, hottest_c

    def _falls(self, hottest_c: float | None) -> bool:
        if hottest_c is None or self._settled_from_c is None or hottest_c >= self.limit_c + _MUCH_C:
            return False
        return hottest_c <= self._settled_from_c - _FALLS_C

    def _lower(self, now_s: float, hottest_c: float | None, throttled: Sequence[str]) -> None:
        if self.decision.level >= self.lowest:
            return
        if self._raised_s is not None:
            relapsed = now_s - self._raised_s < _RELAPSE_S
            self._cool_s = min(2 * self._cool_s, _LONGEST_COOL_S) if relapsed else _COOL_S
            self._raised_s = None
        self.decision = Decision(self.decision.level + 1, self._reason(hottest_c, throttled))

    def _cool(self, now_s: float) -> None:
        self._hot_readings = 0
        if self._cool_since_s is None:
            self._cool_since_s = now_s
        if self.decision.level == 0 or now_s - self._cool_since_s < self._cool_s:
            return
        level = self.decision.level - 1
        self.decision = replace(self.decision, level=level) if level else NORMAL
        self._cool_since_s = self._raised_s = now_s

    def _reason(self, hottest_c: float | None, throttled: Sequence[str]) -> str:
        if throttled:
            return f"the board throttles itself: {', '.join(throttled)}"
        return f"the board was at {hottest_c:.1f} C, its limit is {self.limit_c:g} C"


def lowered(levels: tuple[Throttle, ...], heat: Decision, low_power: str) -> Throttle:
    """What an engine of these levels may use.

    Args:
        heat: the governor's decision.
        low_power: why power is to be saved; empty if it is not.
    """
    by_heat = min(heat.level, len(levels) - 1)
    by_power = half_power(levels) if low_power else 0
    if by_heat >= by_power:
        return replace(levels[by_heat], reason=heat.reason if by_heat else "")
    return replace(levels[by_power], reason=low_power)
