"""Builds of a tiny checkpoint: stopped, gone on with, and made again elsewhere."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import make_tiny

from runtime.package import Package

pytestmark = pytest.mark.slow


def build(checkpoint: Path, cache: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "toolchain.cli", "build", str(checkpoint), "--precision", "int8"]
    profiles = ["--profile", "generic-x86_64", "--profile", "generic-arm64"]
    return subprocess.Popen([*command, *profiles, "--cache", str(cache), "-o", str(out)], stderr=subprocess.DEVNULL)


def test_a_killed_build_leaves_nothing_half_and_the_next_one_ends(tmp_path: Path) -> None:
    """Killed while Olive works: no package. Run again: a whole one, with a variant per profile, to the last byte the
    same as one built from nothing elsewhere."""
    checkpoint = make_tiny(tmp_path / "tiny", "qwen2")
    cache, out = tmp_path / "cache", tmp_path / "out"
    with build(checkpoint, cache, out) as killed:
        deadline_s = time.monotonic() + 120
        while not any(path.stat().st_size for path in cache.glob("logs/*.log")):
            assert time.monotonic() < deadline_s, "Olive never began"
        killed.kill()
    assert not list(out.glob("*"))
    packages = []
    for at in ((cache, out), (tmp_path / "other-cache", tmp_path / "other-out")):
        with build(checkpoint, *at) as again:
            assert again.wait(timeout=300) == 0
        [package] = at[1].glob("*")
        packages.append(package)
    for variant in ("generic-arm64", "generic-x86_64"):
        first, second = (Package.open(package, variant) for package in packages)
        assert first.build_digest == second.build_digest
        assert first.build.needs.arch == {"generic-arm64": "aarch64", "generic-x86_64": "x86_64"}[variant]
