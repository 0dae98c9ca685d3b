"""The packages that benchmarks measure, built here or found from last time."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from random_checkpoint import QWEN25_05B, make_checkpoint

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "benchmarks"
PROFILE = Path(__file__).with_name("random-int4.yaml")


def random_checkpoint(geometry: str = QWEN25_05B) -> Path:
    """A Hugging Face folder with random weights."""
    return make_checkpoint(CACHE / "checkpoint" / f"{geometry}-random", geometry)


def random_package(geometry: str = QWEN25_05B) -> Path:
    """The random checkpoint at INT4."""
    out = CACHE / f"{geometry}-random-{_digest()}"
    return _found(out) or build(random_checkpoint(geometry), PROFILE, out)


def reference_package(precision: str) -> Path:
    """The reference checkpoint for this kind of machine, from what `make demo` cached too."""
    out = CACHE / f"reference-{precision}-{_digest()}"
    cache = ROOT / "build" / "cache"
    return _found(out) or build("reference", "generic-x86_64", out, "--precision", precision, cache=cache)


def build(
    source: str | Path, profile: str | Path, out: Path, *flags: str | Path, cache: Path = CACHE / "cache"
) -> Path:
    """Builds the only package of `out`; what the cache has is not made again."""
    command = [sys.executable, "-m", "toolchain.cli", "build", source, "--profile", profile, "--cache", cache]
    subprocess.run([*command, "-o", out, *flags], check=True)
    [package] = out.glob("*.ortpackage")
    return package


def _digest() -> str:
    """Of what makes packages: another toolchain makes others."""
    made_by = [PROFILE, *sorted((ROOT / "toolchain").rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in made_by)).hexdigest()[:12]


def _found(out: Path) -> Path | None:
    return next(iter(out.glob("*.ortpackage")), None)
