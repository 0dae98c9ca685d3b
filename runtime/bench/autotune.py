"""Measures what `tuning` decides from: how a model runs on this board with several numbers of threads, rows and tokens.

Only one number of threads is loaded at a time, so that memory is that of one session. Each round loads and measures
every number once, in turn from below and from above, so that a board that gets hot slows all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from ..board import tuning
from ..board.cpu import Cpu
from ..board.localsettings import LocalSettings, LocalSettingsFile, Packed, describe_packed
from ..board.tuning import Rounds, Threads
from ..engine.speculation import MAX_GUESS
from ..errors import SessionError
from ..package import Package
from ..sessions.ort_session import OrtSession, pack
from ..sessions.session import Chunk, Session

OpenSession = Callable[[int, int], Session]
"""Loads the model for a number of threads and of slots."""
Report = Callable[[str, float], None]
"""Hears what is being measured, and which share of the time is over, 0 to 1."""

_MOST_ROUNDS = 9
_CHUNKS, _STEPS, _ROW_STEPS, _WIDTH_STEPS = 2, 16, 8, 4  # of one measurement
_WIDTHS = (1, 2, 4, 8, 1 + MAX_GUESS)
_DEPTH = 64  # tokens in a row before its next tokens are timed
CONTEXT_TOKENS = 512
# Where each part has to end, as shares of the budget: loading takes most of the first.
_THREADS_BY, _ROWS_BY, _WIDTHS_BY = 0.6, 0.85, 1.0
_TICK_S = 1e-9  # no run is faster, whatever the clock says


@dataclass(frozen=True)
class Measured:
    """What was measured, and what follows from it.

    Args:
        prefill: tokens/s of a prompt, by threads.
        decode: tokens/s of one stream, by threads.
        totals: tokens/s of all rows together, by rows.
        steps: seconds of a step of one row, by the tokens that it computes.
        threads: for prefill and decode; two numbers where that pays.
        common: one number for both.
        slots: the most rows that pay.
        token_cost: of a further token in a step, against a step with one.
        in_time: whether every part was measured three times or more within the budget.
    """

    prefill: Rounds
    decode: Rounds
    totals: Rounds
    steps: Rounds
    threads: Threads
    common: Threads
    slots: int
    token_cost: float
    in_time: bool


class Autotuner:
    """Measures one package.

    Args:
        open_session: loads it.
        capacities: of the cores there are, fastest first.
        chunk_tokens: of a prompt that one run computes.
        kv_budget_tokens: of all rows together.
        budget_s: seconds that it should take. Each part is measured once even if that takes longer.
        report: hears how far it is.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        open_session: OpenSession,
        *,
        capacities: Sequence[int],
        chunk_tokens: int,
        kv_budget_tokens: int,
        budget_s: float,
        report: Report = lambda _what, _share: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._open = open_session
        self._thread_counts = tuning.thread_candidates(capacities)
        self._row_counts = tuning.row_candidates(kv_budget_tokens)
        self._chunk_tokens = min(chunk_tokens, CONTEXT_TOKENS // (_CHUNKS + 1))
        self._budget_s = budget_s
        self._report = report
        self._clock = clock

    def run(self) -> Measured:
        """Measures, and decides. Raises SessionError."""
        self._started_s = self._clock()
        prefill: dict[int, list[float]] = {count: [] for count in self._thread_counts}
        decode: dict[int, list[float]] = {count: [] for count in self._thread_counts}
        for count in self._rounds("threads", self._thread_counts, until=_THREADS_BY):
            session = self._open(count, 1)
            self._warm_up(session)
            prefill[count].append(self._prefill_rate(session))
            decode[count].append(self._decode_rate(session, 1, _STEPS))
            del session  # before the next is loaded
        threads, common = tuning.choose_threads(prefill, decode), tuning.choose_common(prefill, decode)
        session = self._open(threads.decode, self._row_counts[-1])
        self._warm_up(session)
        totals: dict[int, list[float]] = {count: [] for count in self._row_counts}
        for rows in self._rounds("rows", self._row_counts, until=_ROWS_BY):
            totals[rows].append(self._decode_rate(session, rows, _ROW_STEPS))
        steps: dict[int, list[float]] = {width: [] for width in _WIDTHS}
        for width in self._rounds("tokens a step", _WIDTHS, until=_WIDTHS_BY):
            steps[width].append(self._step_s(session, width))
        return Measured(
            prefill,
            decode,
            totals,
            steps,
            threads=threads,
            common=common,
            slots=tuning.rows_that_pay(totals),
            token_cost=tuning.token_cost(steps),
            in_time=min(len(each[1]) for each in (decode, totals, steps)) >= 3,
        )

    def _rounds(self, what: str, candidates: Sequence[int], *, until: float) -> Iterator[int]:
        """The candidates, round after round, for as long as another round is likely to end in time."""
        deadline_s = self._started_s + until * self._budget_s
        round_s = 0.0
        for number in range(_MOST_ROUNDS):
            began_s = self._clock()
            if number and began_s + round_s > deadline_s:
                return
            for candidate in candidates if number % 2 == 0 else reversed(candidates):
                self._report(what, min(1.0, (self._clock() - self._started_s) / self._budget_s))
                yield candidate
            round_s = max(round_s, self._clock() - began_s)

    def _warm_up(self, session: Session) -> None:
        """Fills every slot with _DEPTH tokens, and lets runs of both kinds happen once."""
        session.run([Chunk(0, _tokens(_DEPTH), 0)])
        for slot in range(1, session.spec.slots):
            session.copy(0, slot, _DEPTH)
        self._decode_rate(session, session.spec.slots, 1)

    def _prefill_rate(self, session: Session) -> float:
        """Tokens/s of a prompt that goes on where slot 0 ends."""
        session.clear(0, _DEPTH)
        with self._timed() as seconds:
            for chunk in range(_CHUNKS):
                session.run([Chunk(0, _tokens(self._chunk_tokens), _DEPTH + chunk * self._chunk_tokens)])
        return _CHUNKS * self._chunk_tokens / seconds()

    def _decode_rate(self, session: Session, rows: int, steps: int) -> float:
        """Tokens/s of the first `rows` slots together."""
        for slot in range(rows):
            session.clear(slot, _DEPTH)
        with self._timed() as seconds:
            for step in range(steps):
                session.run([Chunk(slot, _tokens(1), _DEPTH + step) for slot in range(rows)])
        return steps * rows / seconds()

    def _step_s(self, session: Session, width: int) -> float:
        """Seconds of a step of slot 0 that computes `width` tokens, as the engine runs it."""
        session.clear(0, _DEPTH)
        with self._timed() as seconds:
            for step in range(_WIDTH_STEPS):
                session.run([Chunk(0, _tokens(width), _DEPTH + step * width, logits=width)])
        return seconds() / _WIDTH_STEPS

    @contextmanager
    def _timed(self) -> Iterator[Callable[[], float]]:
        """Gives what tells the seconds that the block took, once it has ended."""
        began_s = self._clock()
        ended_s = began_s
        yield lambda: max(ended_s - began_s, _TICK_S)
        ended_s = self._clock()


def local_settings(measured: Measured, package: Package, file: LocalSettingsFile, cpu: Cpu) -> LocalSettings:
    """What the daemon is to run with. Raises LocalSettingsError, or SessionError if the package cannot be run."""
    packed = None
    if measured.threads != measured.common and package.build.needs.provider == "CPUExecutionProvider":
        packed = _pack(package, file, measured.threads)
    return LocalSettings(
        build_digest=package.build_digest,
        cpu=cpu.identity,
        threads=measured.common.decode,
        slots=measured.slots,
        token_cost=measured.token_cost,
        prefill_tokens_per_second=round(median(measured.prefill[measured.common.prefill]), 1),
        decode_tokens_per_second=round(median(measured.decode[measured.common.decode]), 1),
        packed=packed,
    )


def _pack(package: Package, file: LocalSettingsFile, threads: Threads) -> Packed | None:
    """A graph whose weights two sessions share, as two numbers of threads need; None if it cannot be made, or computes
    something else than the package's, to the last bit."""
    expected = transcript(
        OrtSession(package.serving_graph, slots=1, context_tokens=CONTEXT_TOKENS, threads=threads.decode)
    )
    try:
        graph = pack(package.serving_graph, file.make_folder())
        packed = OrtSession(
            graph, slots=1, context_tokens=CONTEXT_TOKENS, threads=threads.decode, prefill_threads=threads.prefill
        )
        same = transcript(packed) == expected
    except SessionError:  # a disk that is full, for example
        return None
    return describe_packed(graph, threads) if same else None


def transcript(session: Session) -> list[bytes]:
    """Logits of a prompt, of a token after it, and of several after that."""
    tokens = _tokens(_DEPTH)
    chunks = [
        Chunk(0, tokens, 0, logits=_DEPTH),
        Chunk(0, tokens[:1], _DEPTH),
        Chunk(0, tokens[:4], _DEPTH + 1, logits=4),
    ]
    return [session.run([chunk]).tobytes() for chunk in chunks]


def _tokens(count: int) -> list[int]:
    """Which ones does not matter to the time that they take."""
    return [7 + 13 * number % 211 for number in range(count)]
