"""Which device profile fits a machine: what `edgeqwen detect` says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..profile import Profile
from .machine import Machine

_MEMORY_SHARE = 0.8
"""Of a board's memory, what the kernel has at least after firmware and graphics took theirs."""


@dataclass(frozen=True)
class Match:
    """A profile that fits.

    Args:
        reasons: what about the machine says so.
        doubts: what about it does not suit the profile as it is.
    """

    profile: Profile
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Detected:
    """What fits a machine.

    Args:
        best: None if nothing does that packages can be built for.
        alternatives: the rest of these, the better first.
        unsupported: profiles that fit and that no package can be built for.
    """

    best: Match | None
    alternatives: tuple[Match, ...]
    unsupported: tuple[Match, ...]


def detect(machine: Machine, profiles: Iterable[Profile]) -> Detected:
    """The profiles that fit `machine`, the best first.

    One that names this board comes before one for any machine of its architecture, and among these one that suits it
    as it is; then what names the board more specifically, assumes more of the processor, or is nearer to its memory. Of
    equals the earlier wins.
    """
    ranked = []
    for place, profile in enumerate(profiles):
        fits = _fits(profile, machine)
        if fits is not None:
            reasons, specific = fits
            doubts = _doubts(profile, machine)
            memory_off_mb = abs(profile.device.memory_mb - machine.memory_mb)
            rank = (-len(specific), len(doubts), specific, -len(profile.device.isa), memory_off_mb, place)
            ranked.append((rank, Match(profile, reasons, doubts)))
    matches = [match for _, match in sorted(ranked, key=lambda each: each[0])]
    buildable = [match for match in matches if not match.profile.execution.unsupported]
    return Detected(
        best=buildable[0] if buildable else None,
        alternatives=tuple(buildable[1:]),
        unsupported=tuple(match for match in matches if match.profile.execution.unsupported),
    )


def _fits(profile: Profile, machine: Machine) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """Why it does, and a number for each kind of rule, lower for what is more specific; None if it does not."""
    missing = set(profile.device.isa) - machine.features
    if profile.device.arch != machine.arch or missing:
        return None
    reasons, specific = [], []
    rules = profile.detect
    if rules.device_tree:
        place = _first(machine.compatible, rules.device_tree)
        if place is None:
            return None
        reasons.append(f"the device tree names {machine.compatible[place]}")
        specific.append(place)
    if rules.pci:
        place = _first([device.ids for device in machine.pci], [_whole(pattern) for pattern in rules.pci])
        if place is None:
            return None
        device = machine.pci[place]
        driver = f"driver {device.driver}" if device.driver else "no driver"
        reasons.append(f"there is PCI device {device.ids} ({driver})")
        specific.append(0)
    if not reasons:
        reasons.append(f"it is for any {machine.arch} machine with {', '.join(profile.device.isa) or 'a processor'}")
    return tuple(reasons), tuple(specific)


def _first(names: Sequence[str], patterns: Sequence[str]) -> int | None:
    """Where the first name stands that a pattern fits."""
    fits = (place for place, name in enumerate(names) if any(fnmatchcase(name, pattern) for pattern in patterns))
    return next(fits, None)


def _whole(pattern: str) -> str:
    """A PCI pattern with its class."""
    return pattern if pattern.count(":") == 2 else f"{pattern}:*"


def _doubts(profile: Profile, machine: Machine) -> tuple[str, ...]:
    doubts = []
    if 0 < machine.memory_mb < _MEMORY_SHARE * profile.device.memory_mb:
        doubts.append(
            f"it is for {profile.device.memory_mb} MB of memory and there are {machine.memory_mb}:"
            " lower device.memory_mb and runtime.kv_cache.budget_mb in a copy of it"
        )
    if 0 < machine.cores < profile.runtime.threads:
        doubts.append(
            f"it has {profile.runtime.threads} threads for {machine.cores} cores:"
            " lower device.cores and runtime.threads in a copy of it"
        )
    return tuple(doubts)
