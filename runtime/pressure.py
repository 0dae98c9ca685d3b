"""How much KV memory has room for: the budget goes down before the kernel has to kill, and comes back slowly.

What is promised to requests must fit beside what the process holds now. So a budget is what is held already and what
memory has free, and is never found out by hitting a limit. Stalls (PSI, Documentation/accounting/psi.rst) and kills in
the same cgroup lower it further, as they say that others need the memory more than the free bytes tell.
"""

from __future__ import annotations

from dataclasses import dataclass

_LEAST_SPARE_BYTES, _MOST_SPARE_BYTES = 32 << 20, 256 << 20
_SPARE = 1 / 16  # of the limit: for prompts in work, messages, and what others on the board do between two readings
_STALLED, _CALM = 0.20, 0.05
_STALLED_KEEPS, _KILLED_KEEPS = 0.75, 0.5
_BACK_BY = 1 / 8  # of the whole budget; less is not worth a change
_CALM_READINGS = 5


@dataclass(frozen=True)
class MemoryReading:
    """What the kernel says of memory.

    Args:
        limit_bytes: of the cgroup or the machine, whichever has least free.
        free_bytes: what may still be taken there; files in the page cache count as free. Negative: above `memory.high`.
        stalled: the share of the last 10 s in which somebody waited for memory; None where that is not told.
        kills: how often memory ran out in the cgroup so far.
    """

    limit_bytes: int
    free_bytes: int
    stalled: float | None = None
    kills: int = 0


class KvBudget:
    """Decides on the tokens that may be promised, from one reading after the other.

    Args:
        whole_tokens: what is promised while memory has room for it.
        bytes_per_token: of KV.
    """

    def __init__(self, whole_tokens: int, bytes_per_token: int) -> None:
        self._whole = whole_tokens
        self._bytes_per_token = bytes_per_token
        self.tokens = whole_tokens
        self._kills: int | None = None
        self._calm = 0

    def decide(self, reading: MemoryReading, held_tokens: int) -> int:
        """The budget from now on, in tokens. `held_tokens` are in memory now, of running requests and earlier ones."""
        fits = held_tokens + (reading.free_bytes - _spare_bytes(reading)) // self._bytes_per_token
        fits = min(fits, self._eased(reading))
        fits = max(0, min(fits, self._whole))
        calm = (reading.stalled or 0.0) < _CALM and fits >= min(self._whole, self.tokens + int(self._whole * _BACK_BY))
        self._calm = self._calm + 1 if calm else 0
        if fits < self.tokens or self._calm >= _CALM_READINGS:
            self.tokens, self._calm = fits, 0
        return self.tokens

    def _eased(self, reading: MemoryReading) -> int:
        """What stalls and kills leave of the present budget."""
        before, self._kills = self._kills, reading.kills
        if before is not None and reading.kills > before:
            return int(self.tokens * _KILLED_KEEPS)
        if reading.stalled is not None and reading.stalled >= _STALLED:
            return int(self.tokens * _STALLED_KEEPS)
        return self._whole


def _spare_bytes(reading: MemoryReading) -> int:
    return max(_LEAST_SPARE_BYTES, min(_MOST_SPARE_BYTES, int(reading.limit_bytes * _SPARE)))
