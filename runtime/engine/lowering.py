"""What an engine may use, as its own thread keeps to it between steps."""

from __future__ import annotations

from ..sessions.session import Session, ThreadedSession
from .throttle import Throttle, ladder

_LONGEST_REST_S = 5.0


class Lowering:
    """Of `rows` that run at once, on `threads`: None where a session cannot lower them.

    `now` may be set by any thread; the rest is the engine's.
    """

    def __init__(self, threads: int | None, rows: int) -> None:
        self.levels = ladder(rows, threads)
        self.now: Throttle = self.levels[0]
        self._threads = self.now.threads  # what the session was last told

    def set_threads(self, session: Session) -> None:
        """It takes as many as it may; streams wait for that, some tenths of a second. Raises SessionError."""
        wanted = self.now.threads
        if wanted is not None and wanted != self._threads and isinstance(session, ThreadedSession):
            self._threads = wanted  # first: what fails is not tried again with every step
            session.limit_threads(wanted)

    def rest_s(self, step_s: float) -> float:
        """How long to pause after a step that took `step_s`, so that it has its share of the time; in seconds."""
        return min(_LONGEST_REST_S, step_s * (1 - self.now.share) / self.now.share)
