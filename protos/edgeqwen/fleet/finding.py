"""What was found of a board, and how it is by that. Asks nobody."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from ..history import hottest
from ..v1 import health_pb2, telemetry_pb2
from .board import Board, natural


class State(IntEnum):
    """How a board is, the worst first."""

    UNREACHABLE = 0
    """Nothing answers, or not in time."""
    NOT_SERVING = 1
    """Its daemon answers, and takes no requests."""
    UNKNOWN = 2
    """Its daemon does not tell us."""
    DEGRADED = 3
    """It serves, and something is not as it should be."""
    SERVING = 4

    @property
    def words(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Finding:
    """A board, how it is and why; `snapshot` and `report` are what its daemon said, if it did."""

    board: Board
    state: State
    reason: str = ""
    snapshot: telemetry_pb2.Snapshot | None = None
    report: health_pb2.HealthReport | None = None

    @property
    def models(self) -> Sequence[telemetry_pb2.LoadedModel]:
        return () if self.snapshot is None else self.snapshot.models

    @property
    def releases(self) -> list[str]:
        """The packages that it runs, each as NAME VERSION."""
        return [f"{each.model.name} {each.model.package_version}".strip() for each in self.models]

    @property
    def served(self) -> telemetry_pb2.ServedPackage | None:
        """What serves from its store; None if it has none."""
        return self.snapshot.served if self.snapshot is not None and self.snapshot.HasField("served") else None

    @property
    def tokens_per_second(self) -> float | None:
        if self.snapshot is None:
            return None
        return _number(sum(each.engine.completion_tokens_per_second for each in self.models))

    @property
    def waiting(self) -> int:
        return sum(each.engine.queue_depth for each in self.models)

    @property
    def running(self) -> int:
        return sum(each.engine.running for each in self.models)

    @property
    def celsius(self) -> float | None:
        """Of its hottest sensor."""
        hot = None if self.snapshot is None else hottest(self.snapshot.machine)
        return None if hot is None else _number(hot.celsius)

    @property
    def uptime_s(self) -> float | None:
        """Since its daemon was ready."""
        return None if self.snapshot is None else _number(self.snapshot.uptime_s)

    @property
    def free_bytes(self) -> int | None:
        """Memory that its kernel can still give out."""
        if self.snapshot is None or not self.snapshot.machine.HasField("memory_available_bytes"):
            return None
        return self.snapshot.machine.memory_available_bytes


def _number(said: float) -> float | None:
    """None for what JSON has no word for."""
    return said if math.isfinite(said) else None


def judged(board: Board, serving: bool, snapshot: telemetry_pb2.Snapshot, report: health_pb2.HealthReport) -> Finding:
    """A board whose daemon has told everything."""
    wrong = sorted(
        (check for check in report.checks if check.status > health_pb2.CHECK_STATUS_OK), key=lambda its: -its.status
    )
    reason = "; ".join(f"{_subject(check)}: {check.summary}" for check in wrong)
    if not serving:
        return Finding(board, State.NOT_SERVING, reason or "it takes no requests", snapshot, report)
    well = report.status == health_pb2.CHECK_STATUS_OK
    return Finding(board, State.SERVING if well else State.DEGRADED, reason, snapshot, report)


def _subject(check: health_pb2.Check) -> str:
    return f"{check.name} of {check.model}" if check.model else check.name


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """By state, failed checks before degraded ones; boards of a group together, in their natural order."""
    return sorted(findings, key=lambda its: (its.state, -_severity(its), its.board.group, natural(its.board.name)))


def _severity(finding: Finding) -> int:
    return 0 if finding.report is None else finding.report.status


@dataclass(frozen=True)
class Totals:
    """A fleet in numbers: how many boards are so, run each package, and have one on trial."""

    boards: int
    states: Counter[State] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    on_trial: int = 0

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> Totals:
        """Counts them."""
        states = Counter(finding.state for finding in findings)
        releases = Counter(each for its in findings for each in set(its.releases))
        on_trial = sum(its.served is not None and its.served.trial for its in findings)
        return cls(len(findings), states, releases, on_trial)

    @property
    def well(self) -> bool:
        """Whether every board serves as it should."""
        return self.states[State.SERVING] == self.boards

    @property
    def line(self) -> str:
        """Such as: 97 serving, 2 degraded, 1 unreachable; qwen 1.2.0 on 90, qwen 1.1.0 on 9."""
        states = [f"{self.states[state]} {state.words}" for state in reversed(State) if self.states[state]]
        running = [f"{release} on {count}" for release, count in self.releases.most_common()]
        trial = [f"{self.on_trial} on trial"] if self.on_trial else []
        return "; ".join(", ".join(part) for part in (states, running, trial) if part)
