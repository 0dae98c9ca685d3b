"""Tables on stdout."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

_WIDE = 240


def show(table: Table) -> None:
    """Prints it as wide as the terminal is; a file or a pipe has no edge to cut names at."""
    console = Console(markup=False)  # a name may have brackets
    if not console.is_terminal:
        console = Console(markup=False, width=_WIDE)
    console.print(table)
