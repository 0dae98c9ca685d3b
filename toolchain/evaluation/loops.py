"""Whether a text has run into a loop: models that are rounded too far repeat themselves until they are stopped."""

from __future__ import annotations

from collections.abc import Sequence

MIN_REPEATS = 4
MIN_TOKENS = 24


def ends_in_loop(tokens: Sequence[int]) -> bool:
    """Whether the end of `tokens` is one n-gram, of any n, MIN_REPEATS times or more one behind the other.

    The repeats are MIN_TOKENS tokens or more together, so that a row of dots is none.
    """
    return any(
        _has_period(tokens[-span:], n)
        for n in range(1, len(tokens) // MIN_REPEATS + 1)
        if (span := max(n * MIN_REPEATS, MIN_TOKENS)) <= len(tokens)
    )


def _has_period(tokens: Sequence[int], n: int) -> bool:
    return tokens[n:] == tokens[:-n]
