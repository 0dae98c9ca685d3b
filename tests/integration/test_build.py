"""Builds of a tiny checkpoint: killed, gone on with, and made again elsewhere."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tiny import make_tiny

from runtime.package import Package

pytestmark = pytest.mark.slow

ARCHITECTURES = {"generic-arm64": "aarch64", "generic-x86_64": "x86_64"}


def build(checkpoint: Path, cache: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "toolchain.cli", "build", str(checkpoint), "--precision", "int8"]
    profiles = [word for name in ARCHITECTURES for word in ("--profile", name)]
    return subprocess.Popen([*command, *profiles, "--cache", str(cache), "-o", str(out)], stderr=subprocess.DEVNULL)


def wait_until_olive_works(process: subprocess.Popen[bytes], cache: Path) -> None:
    while not any(log.stat().st_size for log in cache.glob("logs/*.log")):
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
        assert process.returncode is None, "the build ended before it could be killed"


def test_a_killed_build_leaves_nothing_half_and_the_next_one_ends(tmp_path: Path) -> None:
    """Killed while Olive works: Olive goes too, and there is no package. Run again: a whole one with a variant per
    profile, to the last byte the same as one built from nothing elsewhere."""
    checkpoint = make_tiny(tmp_path / "tiny", "qwen2")
    cache, out = tmp_path / "cache", tmp_path / "out"
    with build(checkpoint, cache, out) as killed:
        wait_until_olive_works(killed, cache)
        children = psutil.Process(killed.pid).children(recursive=True)
        assert children
        killed.kill()
    assert not psutil.wait_procs(children, timeout=30)[1], "a child outlived the build"
    assert not list(out.glob("*"))
    places = ((cache, out), (tmp_path / "other-cache", tmp_path / "other-out"))
    builds = [build(checkpoint, *place) for place in places]
    assert [each.wait(timeout=300) for each in builds] == [0, 0]
    [package], [other] = (list(out.glob("*")) for _, out in places)
    for variant, architecture in ARCHITECTURES.items():
        first, second = Package.open(package, variant), Package.open(other, variant)
        assert first.build_digest == second.build_digest
        assert first.build.needs.arch == architecture
