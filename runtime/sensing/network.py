"""Bytes through the network interfaces (/proc/net/dev)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .files import read_text

_LINE = re.compile(r"^\s*([^\s:]+):\s*(\d{1,20})(?:\s+\d+){7}\s+(\d{1,20})", re.MULTILINE | re.ASCII)


@dataclass(frozen=True)
class Interface:
    """Bytes since the interface is up."""

    name: str
    received_bytes: int
    sent_bytes: int


def read_interfaces(root: Path) -> tuple[Interface, ...]:
    """All but the loopback, by name."""
    lines = _LINE.findall(read_text(root / "proc/net/dev") or "")
    return tuple(Interface(name, int(received), int(sent)) for name, received, sent in sorted(lines) if name != "lo")
