"""The fleet as Prometheus discovers it: https://prometheus.io/docs/prometheus/latest/configuration/#file_sd_config."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from .board import Board, Inventory


def targets(inventory: Inventory, port: int) -> tuple[str, list[str]]:
    """The file for Prometheus, and the boards that it cannot have in it.

    A board whose inventory does not say where Prometheus finds it is found at the host of its daemon, at `port`.
    """
    groups, left_out = [], []
    for board in inventory.boards:
        address = board.metrics or _beside(board, port)
        if address is None:
            left_out.append(board.name)
            continue
        labels = {"board": board.name, "group": board.group, "profile": board.profile}
        groups.append({"targets": [address], "labels": {name: value for name, value in labels.items() if value}})
    return json.dumps(groups, indent=1) + "\n", left_out


def _beside(board: Board, port: int) -> str | None:
    if board.connection.target.startswith("unix:"):
        return None
    return f"{board.connection.address.rpartition(':')[0]}:{port}"


def write(file: Path, content: str) -> bool:
    """Whether `file` was changed; one that has `content` is left alone, so that nobody reads it again.

    It is replaced as a whole: whoever reads it finds the old one or the new one. Raises OSError.
    """
    encoded = content.encode()
    with suppress(FileNotFoundError):
        if file.read_bytes() == encoded:
            return False
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        with new.open("xb") as written:
            written.write(encoded)
            written.flush()
            os.fsync(written.fileno())
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
    return True
