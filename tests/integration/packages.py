"""Packages that the slow tests share, built as a user builds them and kept by what they are made from."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tiny import Architecture, make_real_shape

REPO = Path(__file__).parents[2]


def build_package(precision: str, *profiles: str, cache: Path, source: str = "reference") -> Path:
    """The package of `source` for `profiles`, names or files, from `cache` unless what it is made from has changed."""
    out = cache / "packages" / f"{precision}-{_key(source, profiles)}"
    if build := begin_build(precision, *profiles, cache=cache, source=source):
        assert build.wait() == 0
        del _BUILDS[out]
    [package] = out.glob("*.ortpackage")
    return package


_BUILDS: dict[Path, subprocess.Popen[bytes]] = {}
"""Those under way, by where the package will be."""


def begin_build_aside(precision: str, *profiles: str, cache: Path) -> None:
    """Begins on one core what `build_package` will wait for, and leaves the others to whatever comes before."""
    if build := begin_build(precision, *profiles, cache=cache):
        os.sched_setaffinity(build.pid, {max(os.sched_getaffinity(0))})


def begin_build(
    precision: str, *profiles: str, cache: Path, source: str = "reference"
) -> subprocess.Popen[bytes] | None:
    """The build that `build_package` will wait for, under way; None if the package is there."""
    out = cache / "packages" / f"{precision}-{_key(source, profiles)}"
    if out not in _BUILDS and not list(out.glob("*.ortpackage")):
        command = [sys.executable, "-m", "toolchain.cli", "build", source]
        command += [word for name in profiles for word in ("--profile", name)]
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        _BUILDS[out] = subprocess.Popen(
            [*command, "--precision", precision, "--cache", str(cache / "cache"), "-o", str(out)], env=environment
        )
    return _BUILDS.get(out)


def end_builds() -> None:
    """Stops those that nobody waited for."""
    for build in _BUILDS.values():
        build.kill()
        build.wait()


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
    if not (folder / "tokenizer.json").is_file():  # the last file to be written
        make_real_shape(folder, architecture)
    return folder
