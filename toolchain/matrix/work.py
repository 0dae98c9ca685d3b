"""What travels between the process that runs a matrix, its workers, and the processes in which these build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.package import File

from .plan import Job


@dataclass(frozen=True)
class Order:
    """What a process builds.

    Args:
        known: the key of what a package is made from that is there already; the same key means nothing to do.
        cores: the only ones that it may use; none: all that it has.
    """

    job: Job
    out: Path
    cache: Path
    known: str | None
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Doing:
    """A build is at `done` of `total` of a stage, in its part `part`; 0 of 0 as it begins."""

    stage: str
    part: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Note:
    """What a build says of itself."""

    text: str


@dataclass(frozen=True)
class Made:
    """How a build ended well. `inputs` is the key of what it was made from.

    Args:
        package: the name of its folder; None if its inputs are those that were known.
        files: all of the package's, by path in it.
        variants: a row for each, for people and scripts.
    """

    inputs: str
    package: str | None = None
    files: Mapping[str, File] = field(default_factory=dict)
    variants: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True)
class Failed:
    """Why a build ended without a package. Another try may end otherwise where `passing`."""

    reason: str
    passing: bool = False


class BuildDied(Exception):
    """The process of a build is gone, and did not say why."""


class Stopped(Exception):
    """Nobody waits for the build any longer."""
