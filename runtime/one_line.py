"""How this package's `edgeqwen` commands say what is not for programs: on stderr, a line each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from .errors import EdgeQwenError, one_line


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the command with the exit status of an error of the block."""
    try:
        yield
    except EdgeQwenError as error:
        note(str(error))
        sys.exit(error.exit_code)


def note(line: str) -> None:
    """For people, beside what is printed for programs."""
    click.echo(f"edgeqwen: {one_line(line)}", err=True)
