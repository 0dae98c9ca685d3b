"""What this host can build, and what it lacks for the rest."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from runtime.profile import Profile

from .exhaustion import available_memory, existing, sized
from .requirements import DISK_BYTES, MEMORY_BYTES, REQUIREMENTS, BuildRequirement

_SHARED_MODULE = "onnxruntime"  # onnxruntime-gpu, -openvino and others install their files over those of onnxruntime


@dataclass(frozen=True)
class Host:
    """What there is to build with.

    Args:
        arch: as `uname -m` says it.
        installed: versions of the Python distributions, by canonical name.
        onnxruntimes: the distributions that have the module `onnxruntime`.
        memory_bytes: that a process may take without swapping.
        disk_bytes: that are free where the cache is.
    """

    arch: str
    installed: Mapping[str, str]
    onnxruntimes: tuple[str, ...]
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Target:
    """A profile, and why this host cannot build for it; no problems: it can."""

    profile: Profile
    problems: tuple[str, ...]

    @property
    def provider(self) -> str:
        return self.profile.execution.provider


def read_host(cache: Path) -> Host:
    """This one; `cache` need not exist yet."""
    return Host(
        arch=platform.machine(),
        installed={canonicalize_name(each.name): each.version for each in metadata.distributions() if each.name},
        onnxruntimes=tuple(sorted(set(metadata.packages_distributions().get(_SHARED_MODULE, [])))),
        memory_bytes=available_memory(),
        disk_bytes=shutil.disk_usage(existing(cache)).free,
    )


def examine(host: Host, profiles: Iterable[Profile], declared: Sequence[str] | None = None) -> list[Target]:
    """A target for each profile, those of a provider together, and of these those alike.

    `declared` are edgeqwen's requirements as its metadata has them; unset: what is installed says.
    """
    if declared is None:
        declared = metadata.requires("edgeqwen") or []
    targets = [Target(profile, tuple(_problems(host, profile, declared))) for profile in profiles]
    return sorted(targets, key=lambda target: (*_place(target.provider), target.problems, target.profile.name))


def _place(provider: str) -> tuple[int, str]:
    """In the order of the table, then by name."""
    known = list(REQUIREMENTS)
    return known.index(provider) if provider in known else len(known), provider


def _problems(host: Host, profile: Profile, declared: Sequence[str]) -> Iterator[str]:
    execution = profile.execution
    if execution.unsupported:
        yield f"{execution.unsupported}; use {execution.instead} meanwhile"
        return
    needed = REQUIREMENTS.get(execution.provider)
    if needed is None:
        yield f"this version compiles for {', '.join(REQUIREMENTS)} only, not for {execution.provider}"
        return
    if needed.hosts and host.arch not in needed.hosts:
        yield f"it is built on {' or '.join(needed.hosts)}, and this host is {host.arch}"
    yield from _unmet(host, needed, declared)
    if len(host.onnxruntimes) > 1:
        yield f"{' and '.join(host.onnxruntimes)} overwrite each other's files: keep one of them in this environment"
    if host.memory_bytes < MEMORY_BYTES:
        yield f"{sized(host.memory_bytes)} of memory are available, and the smallest build takes {sized(MEMORY_BYTES)}"
    if host.disk_bytes < DISK_BYTES:
        yield (
            f"{sized(host.disk_bytes)} are free where the cache is, and the smallest build takes {sized(DISK_BYTES)}:"
            " make room, or set EDGEQWEN_CACHE to another disk"
        )


def _unmet(host: Host, needed: BuildRequirement, declared: Sequence[str]) -> Iterator[str]:
    """One sentence with all that is not installed as the extra asks, and what installs it."""
    wanted = [each for each in map(Requirement, declared) if _applies(each, needed.extra)]
    found = []
    for requirement in sorted(wanted, key=lambda each: each.name):
        version = host.installed.get(canonicalize_name(requirement.name))
        if version is None:
            found.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} is {version} and must be {requirement.specifier}")
    if found:
        yield f"{', '.join(dict.fromkeys(found))}: pip install 'edgeqwen[{needed.extra}]'"


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
