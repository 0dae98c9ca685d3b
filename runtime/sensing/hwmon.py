"""Chips of the kernel's hardware monitoring (Documentation/hwmon/sysfs-interface.rst)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import names_in, read_text


@dataclass(frozen=True)
class Chip:
    """A chip.

    Args:
        name: its driver's, such as `ina3221`; that of its folder if it has none.
        files: names of its files.
    """

    name: str
    folder: Path
    files: tuple[str, ...]

    def channels(self, pattern: str) -> Iterator[tuple[str, Path]]:
        """Number and path of each file that `pattern` fits; its first group is the number."""
        for name in self.files:
            if found := re.fullmatch(pattern, name):
                yield found[1], self.folder / name

    def label(self, channel: str) -> str | None:
        """What the board calls a channel, such as `in1`."""
        return read_text(self.folder / f"{channel}_label")


def find_chips(root: Path) -> tuple[Chip, ...]:
    """All chips under `root`."""
    folder = root / "sys/class/hwmon"
    return tuple(
        Chip(read_text(folder / name / "name") or name, folder / name, tuple(names_in(folder / name)))
        for name in names_in(folder)
    )
