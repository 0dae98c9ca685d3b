"""Builds that run out of disk or memory: a line that says so, nothing half written, and the next one ends."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from integration.compiler import compile
from integration.refusals import Place, reason, refused
from tiny import make_tiny

from runtime.package import SMOOTHING_FILE, Package
from toolchain.graphs.surgery import SERVING_GRAPH

pytestmark = pytest.mark.slow

CPU = ("--profile", "generic-x86_64")
FULL = "no space left on the disk of "


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("good") / "tiny", "qwen2")


def test_a_full_disk_is_said_and_leaves_nothing_half(tiny: Path, tmp_path: Path) -> None:
    """While Olive writes, while the serving graph is written, while the package is. A file may not grow over a limit,
    which fails as a full disk does."""
    place = Place(tmp_path / "cache", tmp_path / "out")
    build = place.build(tiny, *CPU)

    def refusal(max_file_bytes: int) -> str:
        status, said = refused(place, build, max_file_bytes=max_file_bytes)
        assert (status, said.startswith(FULL)) == (8, True), said
        assert "this build needs about " in said
        return said

    def succeeds() -> None:
        done = compile(*place.arguments(tiny, *CPU))
        assert done.exit_code == 0, done.stderr

    assert str(place.cache) in refusal((tiny / "model.safetensors").stat().st_size // 8)
    assert not place.entries
    succeeds()
    [package] = place.out.iterdir()
    digest = Package.open(package).build_digest
    [serving] = (kept.with_name(SERVING_GRAPH) for kept in place.cache.rglob(SMOOTHING_FILE))
    size = serving.stat().st_size
    serving.unlink()
    refusal(size // 2)
    assert not serving.exists()
    succeeds()
    refusal(serving.stat().st_size // 2)
    assert [path.name for path in place.out.iterdir()] == [package.name]
    assert Package.open(package).build_digest == digest


def test_what_the_kernel_kills_for_memory_is_said(tiny: Path, tmp_path: Path) -> None:
    """Olive's process ends by SIGKILL, as when the kernel needs its memory; the next build goes on."""
    place = Place(tmp_path / "cache", tmp_path / "out")
    with subprocess.Popen(place.build(tiny, *CPU), stderr=subprocess.PIPE, text=True) as build:
        os.kill(_olive(build), signal.SIGKILL)
        _, stderr = build.communicate()
    assert build.returncode == 8
    said = reason(stderr)
    assert said.startswith("Olive, which the system killed, ran out of memory, of which ")
    assert said.endswith(" are available now: end other programs, add swap, or build on a machine with more")
    assert not place.out.exists()
    assert not list(place.cache.glob("compiled/*"))
    assert compile(*place.arguments(tiny, *CPU)).exit_code == 0


def _olive(build: subprocess.Popen[str]) -> int:
    """The process that runs Olive, once there is one: forked by one that the build has started. What that runs besides,
    such as `uname`, has a command of its own."""
    while True:
        for own in psutil.Process(build.pid).children():
            with suppress(psutil.NoSuchProcess):
                if forked := [child.pid for child in own.children() if child.cmdline() == own.cmdline()]:
                    return forked[0]
        with suppress(subprocess.TimeoutExpired):
            build.wait(timeout=0.1)
        assert build.returncode is None
