"""What boards say of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fleet.site import Board


def active(board: Board) -> dict[str, object]:
    """The package that serves, as `edgeqwen packages` has it."""
    [found] = [package for package in packages(board) if package["active"]]
    return found


def packages(board: Board) -> list[dict[str, object]]:
    said = json.loads(board.run("edgeqwen packages --json"))
    return list(said["packages"])


def versions(boards: Mapping[str, Board]) -> dict[str, str]:
    """Of the active packages, by board."""
    return {name: str(active(board)["version"]) for name, board in boards.items()}


def daemons(boards: Mapping[str, Board]) -> dict[str, str]:
    """Their processes, by board: another one was started again."""
    return {name: board.run("systemctl show edgeqwend --property=MainPID --value") for name, board in boards.items()}


def events(board: Board, version: str) -> list[tuple[str, str]]:
    """What happened to that version, and when, in order."""
    said = json.loads(board.run("edgeqwen history --json"))
    return [(entry["event"], entry["time"]) for entry in said["history"] if entry["version"] == version]


def answers(board: Board) -> bool:
    """Whether its daemon does."""
    return board.ssh("edgeqwen generate 'One, two,' --max-tokens 2").returncode == 0
