"""Tells systemd how the daemon is, by the protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket
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
