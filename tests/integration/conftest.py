"""Packages and daemons that the slow tests share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.daemons import Daemon, start
from integration.packages import begin_build_aside, build_package, end_builds, small_checkpoint

REPO = Path(__file__).parents[2]

# What is built for a fixture, the longest build last. The INT8 package has a variant that keeps its KV in float32, and
# one for ARM that keeps it in int8.
BUILDS = {
    "float_package": ("float32", "generic-x86_64"),
    "int8_package": ("int8", "generic-x86_64", "generic-arm64"),
    "int4_package": ("int4", "generic-x86_64"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longer the build that a file waits for, the later it comes: a file is what a worker takes."""
    waits: defaultdict[Path, int] = defaultdict(int)
    for item in items:
        waits[item.path] = max(
            waits[item.path], *(at for at, name in enumerate(BUILDS, 1) if name in fixtures(item)), 0
        )
    items.sort(key=lambda item: waits[item.path])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begins the longest build beside the tests that do not need it; of several workers, one does."""
    needed = any("int4_package" in fixtures(item) for item in session.items)
    if needed and not session.config.option.collectonly:
        begin_build_aside(*BUILDS["int4_package"], cache=REPO / "build")


def pytest_sessionfinish() -> None:
    end_builds()


def fixtures(item: pytest.Item) -> list[str]:
    """All that a test asks for, also through other fixtures."""
    return getattr(item, "fixturenames", [])


@pytest.fixture(scope="session")
def float_package(build_cache: Path) -> Path:
    return build_package(*BUILDS["float_package"], cache=build_cache)


@pytest.fixture(scope="session")
def int8_package(build_cache: Path) -> Path:
    return build_package(*BUILDS["int8_package"], cache=build_cache)


@pytest.fixture(scope="session")
def int4_package(build_cache: Path) -> Path:
    return build_package(*BUILDS["int4_package"], cache=build_cache)


@pytest.fixture(scope="session")
def small_package(build_cache: Path) -> Path:
    """Two layers of random weights at float32: for tests in which most of the time is to go into something else."""
    cache = build_cache / "small"
    return build_package("float32", "generic-x86_64", cache=cache, source=str(small_checkpoint("qwen2", cache)))


@pytest.fixture(scope="module")
def float_daemon(float_package: Path) -> Iterator[Daemon]:
    with start(float_package, "--no-verify") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def int4_daemon(int4_package: Path) -> Iterator[Daemon]:
    with start(int4_package) as daemon:
        yield daemon
