"""Builds of what cannot be built: run as a user runs them, and held to what all of them must keep."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# What a build says on the way: its stages, what it runs with, and the hub client's bars.
PROGRESS = re.compile(
    r"[\w ]+( \.\.\.|: \d+\.\d s|:.* about \d+ s left)|.*, so it runs with \d+|.*\d+%\|.*|.*: 0\.00B.*|"
)


_LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Place:
    """Where builds have their cache and put their packages."""

    cache: Path
    out: Path

    @property
    def entries(self) -> set[Path]:
        """All files in the cache, logs and locks aside, and where packages go."""
        files = {path for folder in (self.cache, self.out) for path in folder.rglob("*") if path.is_file()}
        return {path for path in files if path.parent.name not in ("locks", "logs")}

    def build(self, source: Path | str, *more: str, precision: str = "int8") -> list[str]:
        """The command."""
        return [sys.executable, "-m", "toolchain.cli", *self.arguments(source, *more, precision=precision)]

    def arguments(self, source: Path | str, *more: str, precision: str = "int8") -> list[str]:
        """Of the command."""
        places = ("--cache", str(self.cache), "-o", str(self.out))
        return ["build", str(source), "--precision", precision, *places, *more]


def run(
    command: list[str], *, env: Mapping[str, str] | None = None, max_file_bytes: int | None = None
) -> tuple[int, str]:
    """Exit status and stderr. With `max_file_bytes`, no file that the command or a child of it writes grows over it."""
    limited = [sys.executable, "-c", _LIMITED, str(max_file_bytes), *command] if max_file_bytes else command
    done = subprocess.run(limited, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def reason(stderr: str) -> str:
    """The only line that is no progress, without the program's name."""
    said = [line for line in re.split(r"[\r\n]+", stderr) if not PROGRESS.fullmatch(line)]
    assert len(said) == 1, stderr
    assert said[0].startswith("python -m toolchain.cli: ")
    return said[0].removeprefix("python -m toolchain.cli: ")


def refused(place: Place, command: list[str], **how: object) -> tuple[int, str]:
    """Runs a build that must be refused, in one line, and leave everything as it was; returns exit status and line."""
    before = place.entries
    status, stderr = run(command, **how)  # type: ignore[arg-type]
    assert place.entries == before
    return status, reason(stderr)
