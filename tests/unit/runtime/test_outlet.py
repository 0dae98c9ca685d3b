"""Writing to what does not read, has no room, or is not there."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runtime.outlet import Outlet

TIMEOUT_S = 20


def lost(lines: int) -> str:
    return f"{lines} lost\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    os.close(ends[0])


def read_all(descriptor: int) -> str:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read().decode()


def fill(descriptor: int) -> int:
    """Writes as much as a pipe holds; how much that is."""
    os.set_blocking(descriptor, False)
    count = 0
    try:
        while True:
            count += os.write(descriptor, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(descriptor, True)
        return count


def test_everything_comes_in_order(pipe: tuple[int, int]) -> None:
    outlet = Outlet(pipe[1], lost)
    for number in range(100):
        assert outlet.write(f"{number} é\ud800\n") == len(f"{number} é\n") + 1
    assert outlet.close(TIMEOUT_S)
    outlet.write("too late\n")
    os.close(pipe[1])
    assert read_all(pipe[0]) == "".join(f"{number} é\\ud800\n" for number in range(100))


def test_a_reader_that_stops_stops_nobody(pipe: tuple[int, int]) -> None:
    """What does not fit is lost; when the reader goes on, it is told how many lines that were."""
    line, lines, noise = "x" * 99 + "\n", 5000, fill(pipe[1])
    outlet = Outlet(pipe[1], lost, limit_bytes=10_000)
    for _ in range(lines):
        outlet.write(line)
    assert not outlet.close(0.01)
    os.read(pipe[0], noise)
    assert outlet.close(TIMEOUT_S)
    os.close(pipe[1])
    its = read_all(pipe[0]).splitlines(keepends=True)
    [told] = [each for each in its if each != line]
    assert told == f"{lines - its.count(line)} lost\n"
    assert 100 <= its.count(line) < 110


def test_a_full_disk_loses_lines_and_no_more() -> None:
    """/dev/full says what a full disk does."""
    full = os.open("/dev/full", os.O_WRONLY)
    outlet = Outlet(full, lost)
    outlet.write("a\n")
    assert outlet.close(TIMEOUT_S)
    os.close(full)


def test_without_a_descriptor_nothing_is_written() -> None:
    outlet = Outlet(None, lost)
    assert outlet.write("a\n") == 2
    assert outlet.close(0)
    assert not outlet.isatty()
