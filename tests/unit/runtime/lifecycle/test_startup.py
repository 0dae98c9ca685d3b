"""What systemd hears while the daemon starts."""

from __future__ import annotations

from pathlib import Path

from unit.runtime.tiny_package import make_package

from runtime.lifecycle.startup import Startup
from runtime.package import Package


class Heard:
    """What was told, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lines: list[tuple[str, ...]] = []
        self.startup = Startup(lambda *state: self.lines.append(state), clock=lambda: self.now_s)


def test_bytes_that_were_checked_buy_time_now_and_then() -> None:
    """The first at once, the others no more often than every 5 s, each with a minute more."""
    heard = Heard()
    for second in range(11):
        heard.now_s = float(second)
        heard.startup.checked(1_000_000)
    assert heard.lines == [
        (f"STATUS=checked {megabytes} MB of the package", "EXTEND_TIMEOUT_USEC=60000000") for megabytes in (1, 6, 11)
    ]


def test_a_file_that_cannot_be_read_buys_no_time() -> None:
    """Nothing is told without progress."""
    heard = Heard()
    heard.now_s = 1000.0
    assert heard.lines == []


def test_loading_may_take_what_slow_storage_takes() -> None:
    """A minute, and a second for every 5 MB of weights."""
    heard = Heard()
    heard.startup.loading(100_000_000)
    assert heard.lines == [("STATUS=loading 100 MB of weights", "EXTEND_TIMEOUT_USEC=80000000")]


def test_a_canary_may_take_what_the_slowest_board_takes() -> None:
    heard = Heard()
    heard.startup.trying()
    assert heard.lines == [("STATUS=trying a package", "EXTEND_TIMEOUT_USEC=300000000")]


def test_a_package_reports_what_it_has_checked(tmp_path: Path) -> None:
    """Every byte of its files, and none where digests are not compared."""
    root, read = make_package(tmp_path / "p.ortpackage"), []
    Package.open(root, progress=read.append)
    assert sum(read) == sum(file.size_bytes for file in Package.open(root).build.files.values())
    read.clear()
    Package.open(root, verify=False, progress=read.append)
    assert read == []
