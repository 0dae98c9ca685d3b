"""Builds of a tiny checkpoint: killed, gone on with, made again elsewhere, and two at once."""

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
    """A build under way, which reports to a file beside `out`."""
    command = [sys.executable, "-m", "toolchain.cli", "build", str(checkpoint), "--precision", "int4"]
    profiles = [word for name in ARCHITECTURES for word in ("--profile", name)]
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen([*command, *profiles, "--cache", str(cache), "-o", str(out)], stderr=log)


def wait_until_olive_works(process: subprocess.Popen[bytes], cache: Path) -> None:
    while not any(log.stat().st_size for log in cache.glob("logs/*.log")):
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
        assert process.returncode is None, "the build ended before it could be killed"


def test_a_killed_build_leaves_nothing_half_and_the_next_one_ends(tmp_path: Path) -> None:
    """Killed while Olive works: Olive goes too, and there is no package. Run again, twice at once with one cache: they
    wait for each other, and both are whole, with a variant per profile, to the last byte the same as one built from
    nothing elsewhere: calibration text, smoothing, layers chosen, GPTQ and the KV cache's scales included."""
    checkpoint = make_tiny(tmp_path / "tiny", "qwen2")
    cache, out = tmp_path / "cache", tmp_path / "out"
    with build(checkpoint, cache, out) as killed:
        wait_until_olive_works(killed, cache)
        children = psutil.Process(killed.pid).children(recursive=True)
        assert children
        killed.kill()
    assert not psutil.wait_procs(children, timeout=30)[1], "a child outlived the build"
    assert not list(out.glob("*"))
    places = ((cache, out), (cache, tmp_path / "second-out"), (tmp_path / "other-cache", tmp_path / "other-out"))
    builds = [build(checkpoint, *place) for place in places]
    assert [each.wait(timeout=600) for each in builds] == [0, 0, 0]
    waited = ["waiting for the build" in out.with_suffix(".log").read_text() for _, out in places]
    assert any(waited[:2])
    assert not waited[2]
    packages = [path for _, out in places for path in out.glob("*")]
    assert len(packages) == len(places)
    for variant, architecture in ARCHITECTURES.items():
        opened = [Package.open(package, variant) for package in packages]
        assert len({package.build_digest for package in opened}) == 1
        assert all(package.build.recipe["layers"]["type"] == "OrderedGptq" for package in opened)
        assert {package.build.needs.arch for package in opened} == {architecture}
