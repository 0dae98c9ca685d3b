"""Packages and daemons that the slow tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.daemons import Daemon, start
from integration.packages import build_package


@pytest.fixture(scope="session")
def float_package(build_cache: Path) -> Path:
    return build_package("float32", build_cache)


@pytest.fixture(scope="session")
def int8_package(build_cache: Path) -> Path:
    """With a variant that keeps its KV in float32, and one for ARM that keeps it in int8."""
    return build_package("int8", build_cache, profiles=("generic-x86_64", "generic-arm64"))


@pytest.fixture(scope="session")
def int4_package(build_cache: Path) -> Path:
    return build_package("int4", build_cache)


@pytest.fixture(scope="module")
def float_daemon(float_package: Path) -> Iterator[Daemon]:
    with start(float_package, "--no-verify") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def int4_daemon(int4_package: Path) -> Iterator[Daemon]:
    with start(int4_package) as daemon:
        yield daemon
