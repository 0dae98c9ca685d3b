"""Sees how the model of a package on trial is, by what its calls show; where nobody calls, it asks for a token."""

from __future__ import annotations

from collections.abc import Callable

from ..engine.engine import Engine
from ..errors import SessionError, Unavailable
from ..health.checks import Check, Status, check_engine, check_speed
from ..models.model import Model
from .gate import Look
from .golden import replay

IDLE_S = 60.0
"""Without a step, before it asks."""
_AGAIN_S = 10.0  # where its last question was answered wrongly


class Witness:
    """Of one model, from now on.

    Args:
        stalled: whether an engine hangs. Never blocks.
        patience_s: how long a token may take.
        idle_s: how long nobody may have called before it asks.
    """

    def __init__(
        self, model: Model, stalled: Callable[[Engine], bool], patience_s: float, *, idle_s: float = IDLE_S
    ) -> None:
        self._model = model
        self._idle_s = idle_s
        self._stalled = stalled
        self._patience_s = patience_s
        figures = model.engine.figures()
        self._finished, self._broken = figures.durations["finished"].count, figures.broken
        self._asked = 0
        self._wrong = ""

    @property
    def due(self) -> bool:
        """Whether nobody else shows how it is, so that `ask` should."""
        engine = self._model.engine
        age_ms = engine.stats().last_step_age_ms
        idle_s = min(_AGAIN_S, self._idle_s) if self._wrong else self._idle_s
        return not engine.has_work and (age_ms is None or age_ms >= 1e3 * idle_s)

    def ask(self) -> None:
        """Blocks until the first token of the golden transcript is there, or is not."""
        if self._model.package is None:
            return
        golden = self._model.package.build.golden
        self._asked += 1  # before it ends: no look shall take it for a client's
        try:
            self._wrong = replay(self._model.engine, golden, patience_s=self._patience_s, tokens=1).fault
        except SessionError as error:
            self._asked -= 1
            self._wrong = str(error)
        except Unavailable:  # it has more to do than to answer this
            self._asked -= 1

    def look(self, now_s: float) -> Look:
        """How it is at `now_s`. Never blocks."""
        engine, figures = self._model.engine, self._model.engine.figures()
        bad = [check.summary for check in self._checks() if check.status is Status.FAILED]
        if self._wrong:
            bad.append(f"asked for the first token of its golden transcript: {self._wrong}.")
        return Look(
            now_s,
            fault=" ".join(bad).rstrip("."),
            stalled=self._stalled(engine),
            calls=max(0, figures.durations["finished"].count - self._finished - self._asked),
            broken=figures.broken - self._broken,
        )

    def _checks(self) -> list[Check]:
        """What of health is the package's own doing. Slow tokens of an engine that is lowered are not."""
        stats, expected = self._model.engine.stats(), self._model.expectation
        found = [check_engine(loaded=True, draining=False, stalled=False, failures=stats.failures_in_a_row, age_s=None)]
        if expected is not None and stats.decode_step_p50_ms and not self._model.engine.throttled.level:
            speed = 1e3 / stats.decode_step_p50_ms
            found.append(check_speed(speed, expected.decode_tokens_per_second, expected.decode_from))
        return found
