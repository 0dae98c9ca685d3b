"""A board of the fleet: what the inventory says of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..connection import Connection

MAX_NAME = 253
"""Characters of a board's name: what DNS has room for."""


class InventoryError(ValueError):
    """The inventory cannot be used; the message is one line that says where and why."""


@dataclass(frozen=True)
class Board:
    """A board.

    Args:
        name: as the inventory has it.
        connection: where its daemon is, and how we show who we are.
        groups: all that it is in, also through other groups; sorted.
        group: the one that it is counted in; empty if it is in none.
        profile: the device profile that its package is for; empty if the inventory does not say.
        metrics: HOST:PORT where Prometheus finds it; None if the inventory does not say.
    """

    name: str
    connection: Connection
    groups: tuple[str, ...] = ()
    group: str = ""
    profile: str = ""
    metrics: str | None = None

    def __post_init__(self) -> None:
        for what, name in (("board", self.name), ("group", self.group), ("profile", self.profile)):
            if len(name) > MAX_NAME or not name.isprintable() or (what == "board" and not name):
                raise InventoryError(
                    f"{name[:MAX_NAME]!r} is no name for a {what}: 1 to {MAX_NAME} printable characters"
                )


@dataclass(frozen=True)
class Inventory:
    """The boards in their natural order: pump-2 before pump-10.

    `left_out` are the hosts for which the inventory has no daemon.
    """

    boards: tuple[Board, ...]
    left_out: tuple[str, ...] = ()

    def of_group(self, group: str) -> Inventory:
        """Those in `group`, directly or through other groups. Raises InventoryError if there are none."""
        chosen = tuple(board for board in self.boards if group in board.groups)
        if not chosen:
            there = sorted({name for board in self.boards for name in board.groups})
            has = f"it has {', '.join(there[:20])}{' and more' if len(there) > 20 else ''}" if there else "it has none"
            raise InventoryError(f"no board is in a group {group!r}; {has}")
        return Inventory(chosen)


def natural(name: str) -> list[tuple[int, int, str]]:
    """What names are ordered by: digits count as the number that they are, however long; no two names are alike."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    numbers = [part.lstrip("0") if part.isdecimal() else None for part in parts]
    return [
        *(
            (1, 0, part) if number is None else (0, len(number), number)
            for part, number in zip(parts, numbers, strict=True)
        ),
        (-1, 0, name),
    ]
