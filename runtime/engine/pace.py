"""How long a first token takes, from what was seen lately. Pure: the caller tells how long things took.

It is asked for one purpose, to refuse what is surely too late. So it says nothing before it has seen enough, and where
it has to assume something it assumes what is quicker. What was seen a minute ago counts no more: a board that was busy
or hot for a while would refuse for ever what it could do by now, and never find out.
"""

from __future__ import annotations

from dataclasses import dataclass

ENOUGH = 8
FRESH_S = 60.0
_FADE = 0.9  # what is ten steps back counts a third


@dataclass(eq=False)
class _Mean:
    """`total` over `weight`, of what was seen lately."""

    total: float = 0.0
    weight: float = 0.0
    seen: int = 0
    last_s: float = 0.0

    def add(self, now_s: float, total: float, weight: float) -> None:
        if now_s - self.last_s > FRESH_S:
            self.total, self.weight, self.seen = 0.0, 0.0, 0
        self.last_s = now_s
        self.total = self.total * _FADE + total
        self.weight = self.weight * _FADE + weight
        self.seen += 1

    def at(self, now_s: float) -> float | None:
        enough = self.seen >= ENOUGH and self.weight > 0 and now_s - self.last_s <= FRESH_S
        return self.total / self.weight if enough else None


class Pace:
    """What whole chunks of prompts took, alone and beside rows that decode, and how long requests kept their slots."""

    def __init__(self) -> None:
        self._alone, self._beside, self._held = _Mean(), _Mean(), _Mean()

    def prefilled(self, now_s: float, seconds: float, tokens: int, *, beside: bool) -> None:
        """A step computed a chunk that was as long as it may be; `beside`: rows decoded in it."""
        (self._beside if beside else self._alone).add(now_s, seconds, tokens)

    def released(self, now_s: float, held_s: float) -> None:
        """A request has left its slot."""
        self._held.add(now_s, held_s, 1)

    def first_token_s(self, now_s: float, tokens: int, *, tokens_ahead: int, endings: int, slots: int) -> float | None:
        """Until the first token of a prompt, in seconds. None: not enough was seen lately.

        Args:
            tokens: of the prompt, to be computed.
            tokens_ahead: of others, to be computed before.
            endings: how many requests must end before it has a slot.
            slots: how many share the model.
        """
        alone, beside = self._alone.at(now_s), self._beside.at(now_s)
        known = [value for value in (alone, beside) if value is not None]
        if not known:
            return None
        quickest = min(known)
        ahead_s = tokens_ahead * (beside if endings and beside is not None else quickest)
        slot_s = endings * (self._held.at(now_s) or 0.0) / slots
        return max(ahead_s, slot_s) + tokens * quickest
