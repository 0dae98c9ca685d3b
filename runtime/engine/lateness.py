"""Who waits in vain: requests whose first token cannot be there before their deadline, as things are. Pure."""

from __future__ import annotations

from ..errors import DeadlineTooShort
from .pace import Pace
from .scheduler import Scheduler
from .sequence import Request, Sequence

_SURE = 2.0  # who would be too late even at so many times the speed that was seen
_BEHIND_ALL = 1 << 62
_EVERY_S = 0.25


class Lateness:
    """Judges by `pace` what `scheduler` has to do before."""

    def __init__(self, scheduler: Scheduler, pace: Pace) -> None:
        self._scheduler = scheduler
        self._pace = pace
        self._looked_s = -_EVERY_S

    def of(self, request: Request, left_s: float, now_s: float) -> DeadlineTooShort | None:
        """What is to be told to `request` if it comes now, with `left_s` seconds to its deadline, in vain."""
        newcomer = Sequence(_BEHIND_ALL, request, new_tokens=self._scheduler.new_tokens(request))
        ahead = [each.new_tokens for each in self._scheduler.waiting.ahead_of(newcomer)]
        return self._judge(newcomer, sum(ahead) + _left_of(self._scheduler.prefilling), len(ahead), left_s, now_s)

    def now_and_then(self, now_s: float) -> list[tuple[Sequence, DeadlineTooShort]]:
        """What `among` says, a few times a second."""
        if now_s - self._looked_s < _EVERY_S:
            return []
        self._looked_s = now_s
        return self.among(now_s)

    def among(self, now_s: float) -> list[tuple[Sequence, DeadlineTooShort]]:
        """Those of the queue, and what is to be told to them."""
        found: list[tuple[Sequence, DeadlineTooShort]] = []
        if all(each.deadline_s is None for each in self._scheduler.waiting.by_client):
            return found
        tokens, place = _left_of(self._scheduler.prefilling), 0
        for each in self._scheduler.waiting:
            late = None
            if each.deadline_s is not None:
                late = self._judge(each, tokens, place, each.deadline_s - now_s, now_s)
            if late is not None:
                found.append((each, late))
                continue
            tokens += each.new_tokens
            place += 1
        return found

    def _judge(
        self, sequence: Sequence, tokens_ahead: int, place: int, left_s: float, now_s: float
    ) -> DeadlineTooShort | None:
        kv = self._scheduler.kv
        endings = max(0, place + 1 - kv.free_slots)
        expected_s = self._pace.first_token_s(
            now_s, sequence.new_tokens, tokens_ahead=tokens_ahead, endings=endings, slots=kv.max_running
        )
        if expected_s is None or expected_s <= left_s * _SURE:
            return None
        return DeadlineTooShort(expected_s, max(0.0, left_s))


def _left_of(prefilling: Sequence | None) -> int:
    return prefilling.prompt_tokens - prefilling.computed if prefilling else 0
