"""Packages that the slow tests share, built as a user builds them and kept by what they are made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tiny import Architecture, make_real_shape

REPO = Path(__file__).parents[2]


def build_package(precision: str, *profiles: str, cache: Path, source: str = "reference") -> Path:
    """The package of `source` for `profiles`, names or files, from `cache` unless what it is made from has changed."""
    build = _Build(precision, profiles, cache, source)
    with alone(build.out):
        if not build.is_done:
            subprocess.run(build.command, env=build.environment, check=True)
    [package] = build.out.glob("*.ortpackage")
    return package


_ASIDE: list[subprocess.Popen[bytes]] = []


def begin_build_aside(precision: str, *profiles: str, cache: Path) -> None:
    """Begins on one core what `build_package` will wait for, and leaves the others to whatever comes before."""
    build = _Build(precision, profiles, cache)
    with suppress(BlockingIOError), alone(build.out, wait=False) as lock:  # else another process builds it
        if not build.is_done:
            _ASIDE.append(subprocess.Popen(build.command, env=build.environment, pass_fds=[lock]))
            os.sched_setaffinity(_ASIDE[-1].pid, {max(os.sched_getaffinity(0))})


def end_builds() -> None:
    """Stops those aside that nobody waited for."""
    for build in _ASIDE:
        build.kill()
        build.wait()


@contextmanager
def alone(made: Path, *, wait: bool = True) -> Iterator[int]:
    """Keeps all others from making the same; yields the lock, which lasts as long as a process that was given it.

    Raises BlockingIOError where another has it, unless it is to `wait`.
    """
    made.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(f"{made}.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield lock
    finally:
        os.close(lock)


@dataclass(frozen=True)
class _Build:
    precision: str
    profiles: tuple[str, ...]
    cache: Path
    source: str = "reference"

    @cached_property
    def out(self) -> Path:
        """The folder that the package will be in."""
        return self.cache / "packages" / f"{self.precision}-{_key(self.source, self.profiles)}"

    @property
    def is_done(self) -> bool:
        return any(self.out.glob("*.ortpackage"))

    @property
    def command(self) -> list[str]:
        profiles = [word for name in self.profiles for word in ("--profile", name)]
        command = [sys.executable, "-m", "toolchain.cli", "build", self.source, *profiles]
        return [*command, "--precision", self.precision, "--cache", str(self.cache / "cache"), "-o", str(self.out)]

    @property
    def environment(self) -> dict[str, str]:
        """With the hub."""
        return {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}


def _key(source: str, profiles: tuple[str, ...]) -> str:
    made_from = [
        *(REPO / "toolchain").rglob("*.py"),
        *(REPO / "toolchain" / "data").iterdir(),
        REPO / "runtime" / "package.py",
        REPO / "runtime" / "presets.py",
        REPO / "runtime" / "profile.py",
        *(Path(name) if "/" in name else REPO / "device_profiles" / f"{name}.yaml" for name in profiles),
        REPO / "pyproject.toml",
    ]
    digest = hashlib.sha256(source.encode())
    for path in sorted(made_from):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def small_checkpoint(architecture: Architecture, cache: Path) -> Path:
    """A random checkpoint of real shape, from `cache` unless what makes it has changed."""
    made_by = hashlib.sha256((REPO / "tests" / "tiny.py").read_bytes()).hexdigest()[:12]
    folder = cache / "checkpoints" / f"small-{architecture}-{made_by}"
    with alone(folder):
        if not (folder / "tokenizer.json").is_file():  # the last file to be written
            make_real_shape(folder, architecture)
    return folder
