"""The commands in the guides work as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from integration.daemons import Daemon

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = {"edgeqwen": "edgeqwen.cli", "edgeqwen-compile": "toolchain.cli", "edgeqwend": "runtime.daemon"}


def commands() -> list[str]:
    """Lines that begin with `$ ` in the console blocks of README.md and docs/."""
    texts = [path.read_text(encoding="utf-8") for path in (REPO / "README.md", *sorted((REPO / "docs").glob("*.md")))]
    blocks = [block for text in texts for block in BLOCK.findall(text)]
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_guides_work(command: str, int4_daemon: Daemon) -> None:
    """Each exits with 0 and prints something."""
    program, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, "-m", MODULES[program], *arguments],
        env=os.environ | {"EDGEQWEN_TARGET": int4_daemon.target},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_documented_links_lead_somewhere() -> None:
    """Relative links of the guides name files that are there."""
    for path in (REPO / "README.md", *(REPO / "docs").rglob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"
