"""Whether a daemon is there, before anything is asked of it."""

from __future__ import annotations

import socket

_PATIENCE_S = 1.0


def somebody_listens(address: str) -> bool:
    """Whether a connection to `unix:PATH` or `HOST:PORT` is taken."""
    try:
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(_PATIENCE_S)
                probe.connect(address.removeprefix("unix:").removeprefix("//"))
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
    except OSError:
        return False
    return True
