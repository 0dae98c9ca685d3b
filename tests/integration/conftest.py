"""Packages and daemons that the slow tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.daemons import Daemon, start
from integration.packages import begin_build, build_package, end_builds

REPO = Path(__file__).parents[2]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begins the longest build beside the fast tests, if a test needs it."""
    needed = any("int4_package" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and not session.config.option.collectonly:
        begin_build("int4", REPO / "build")


def pytest_sessionfinish() -> None:
    end_builds()


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
