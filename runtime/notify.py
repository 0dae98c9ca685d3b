"""Tells systemd how the daemon is, by the protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Sends `state`, such as `READY=1`; does nothing where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(state.encode(), address)
