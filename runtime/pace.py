"""How long a first token takes, from what was seen lately. Pure: the caller tells how long things took.

It is asked for one purpose, to refuse what is surely too late. So it says nothing before it has seen enough, and where
it has to assume something it assumes what is quicker.
"""

from __future__ import annotations

from dataclasses import dataclass

ENOUGH = 8
_FADE = 0.9  # what is ten steps back counts a third


@dataclass(eq=False)
class _Mean:
    """`total` over `weight`, of what was seen lately."""

    total: float = 0.0
    weight: float = 0.0
    seen: int = 0

    def add(self, total: float, weight: float) -> None:
        self.total = self.total * _FADE + total
        self.weight = self.weight * _FADE + weight
        self.seen += 1

    @property
    def value(self) -> float | None:
        return self.total / self.weight if self.seen >= ENOUGH and self.weight > 0 else None


class Pace:
    """What whole chunks of prompts took, alone and beside rows that decode, and how long requests kept their slots."""

    def __init__(self) -> None:
        self._alone, self._beside, self._held = _Mean(), _Mean(), _Mean()

    def prefilled(self, seconds: float, tokens: int, *, beside: bool) -> None:
        """A step computed a chunk that was as long as it may be; `beside`: rows decoded in it."""
        (self._beside if beside else self._alone).add(seconds, tokens)

    def released(self, held_s: float) -> None:
        """A request has left its slot."""
        self._held.add(held_s, 1)

    def first_token_s(self, tokens: int, *, tokens_ahead: int, endings: int, slots: int) -> float | None:
        """Until the first token of a prompt, in seconds. None: not enough was seen.

        Args:
            tokens: of the prompt, to be computed.
            tokens_ahead: of others, to be computed before.
            endings: how many requests must end before it has a slot.
            slots: how many share the model.
        """
        known = [value for value in (self._alone.value, self._beside.value) if value is not None]
        if not known:
            return None
        quickest, beside = min(known), self._beside.value if self._beside.value is not None else min(known)
        ahead_s = tokens_ahead * (beside if endings else quickest)
        slot_s = endings * (self._held.value or 0.0) / slots
        return max(ahead_s, slot_s) + tokens * quickest
