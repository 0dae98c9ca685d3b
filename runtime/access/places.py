"""What an address to listen at means: `unix:PATH` or `HOST:PORT`."""

from __future__ import annotations

import ipaddress
from pathlib import Path

UNIX = "unix:"
INNER_NAME_CHARS = 4
MAX_PATH_BYTES = 107  # sockaddr_un.sun_path, with its final zero


def host_and_port(listen: str) -> tuple[str, int]:
    """Of `HOST:PORT`; an IPv6 address without its brackets."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def inner_folder(public: Path) -> Path:
    """Where gRPC listens for what comes in at the unix socket `public`."""
    return public.parent / f".{public.name}"


def max_public_bytes() -> int:
    """Of the path of a unix socket, which gRPC's in its folder is longer than."""
    return MAX_PATH_BYTES - len(f"./{'x' * INNER_NAME_CHARS}")
