"""Tells systemd how the daemon is, by the protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(*state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Sends `state`, such as `READY=1`, in one message; does nothing where nobody listens.

    Raises OSError if somebody should, but cannot be reached.
    """
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(1.0)  # its buffer may be full
        channel.sendto("\n".join(state).encode(), address)


def extend_timeout(seconds: float) -> str:
    """A line that asks for `seconds` more, from now, to start or to stop."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def reloading() -> tuple[str, str]:
    """The lines that say that the configuration is read again; READY=1 ends it.

    With the time, also `Type=notify-reload` of systemd 253 and later understands them.
    """
    return "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often to send WATCHDOG=1: twice as often as systemd must hear it. None where it does not listen for that."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):  # meant for the process that started this one
        return None
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 2e6 if microseconds > 0 else None
