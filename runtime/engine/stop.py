"""Finds stop strings in text that arrives in pieces."""

from __future__ import annotations


class StopMatcher:
    """Lets text through up to the first of `stops`, and holds back what may be the start of one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        assert all(stops)
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Takes more text; returns what is safe to emit, and the stop string if one is complete."""
        if not self._stops:
            return text, None
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:  # the first to be complete, so that it does not matter how the text was cut
            at, stop = min(found, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            self._held = ""
            return text[:at], stop
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """What was held back: the text is over, so it is no stop string."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
