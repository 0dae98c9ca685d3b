"""The messages that systemd gets."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from runtime.notify import notify, reloading, watchdog_interval_s


def receive(address: str | bytes, listen_at: str) -> str:
    """What arrives at `address` when `listen_at` is in the environment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(5)
        notify("READY=1", "STATUS=fine", environ={"NOTIFY_SOCKET": listen_at})
        return manager.recv(4096).decode()


def test_a_message_is_one_datagram_with_a_line_for_each_variable(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    assert receive(path, path) == "READY=1\nSTATUS=fine"


def test_an_address_may_be_abstract() -> None:
    """@ stands for the zero byte that an abstract address begins with."""
    name = f"edgeqwen-test-{os.getpid()}"
    assert receive(b"\0" + name.encode(), f"@{name}") == "READY=1\nSTATUS=fine"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    notify("READY=1", environ=environ)


def test_a_manager_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    """The caller decides that it does not matter."""
    with pytest.raises(OSError, match="No such file"):
        notify("READY=1", environ={"NOTIFY_SOCKET": str(tmp_path / "nobody")})


def test_a_manager_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """A socket's file that nobody listens at any more raises OSError."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
    with pytest.raises(ConnectionRefusedError):
        notify("READY=1", environ={"NOTIFY_SOCKET": path})


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_hears_twice_in_its_time(environ: dict[str, str], interval_s: float | None) -> None:
    """Where systemd wants to hear from this process at all."""
    assert watchdog_interval_s(environ) == interval_s


def test_a_reload_says_when_it_began() -> None:
    """In microseconds of the monotonic clock, as Type=notify-reload compares them."""
    before = time.monotonic_ns() // 1000
    state, stamp = reloading()
    assert state == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
