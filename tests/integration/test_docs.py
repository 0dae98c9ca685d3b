"""The guides are true: their console blocks run as written, and what needs a board or a hub names flags that exist."""

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
GUIDES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md")), REPO / "docs" / "benchmarks" / "README.md"]
OPENVINO_GUIDE = REPO / "docs" / "openvino.md"
"""Its commands need an environment of their own: test_openvino runs them."""
CLIENTS_GUIDE = REPO / "docs" / "clients.md"
"""Its commands need examples and HTTP beside: test_clients runs them."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = ("edgeqwen", "edgeqwen-compile", "edgeqwend")


def blocks(guide: Path, *, console: bool) -> list[str]:
    """Lines of the guide's console blocks that begin with `$ `, without it; or all lines of its plain blocks."""
    found = [(kind, text.splitlines()) for kind, text in BLOCK.findall(guide.read_text(encoding="utf-8"))]
    if console:
        lines = [line for kind, text in found if kind == "console" for line in text]
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for kind, text in found if not kind for line in text]


def run(command: list[str], where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=where,
        env=os.environ | {"PATH": path} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


RUNNABLE = [guide for guide in GUIDES if guide not in (OPENVINO_GUIDE, CLIENTS_GUIDE) and blocks(guide, console=True)]


@pytest.mark.parametrize("guide", RUNNABLE, ids=lambda guide: guide.name)
def test_commands_of_a_guide_work(
    guide: Path, int4_daemon: Daemon, int4_package: Path, build_cache: Path, tmp_path: Path
) -> None:
    """One after the other in one empty folder, where each exits with 0."""
    environment = {
        "EDGEQWEN_TARGET": int4_daemon.target,
        "EDGEQWEN_PACKAGE": str(int4_package),
        "EDGEQWEN_STATE_DIR": str(tmp_path),
        "EDGEQWEN_CACHE": str(build_cache / "cache"),
    }
    for command in blocks(guide, console=True):
        done = run(["bash", "-c", command], tmp_path, **environment)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def unrunnable() -> list[str]:
    """Calls of our programs that need a board or a model hub, once each."""
    lines = (line.removeprefix("sudo ") for guide in GUIDES for line in blocks(guide, console=False))
    return sorted({line for line in lines if line.split(" ")[0] in PROGRAMS})


@pytest.mark.parametrize("command", unrunnable())
def test_flags_of_other_commands_exist(command: str, tmp_path: Path) -> None:
    """The help of the program, or of its subcommand, knows every flag."""
    program, *arguments = shlex.split(command, comments=True)
    subcommand: list[str] = []
    done = run([program, "--help"], tmp_path)
    for argument in arguments:
        if "Commands:" not in done.stdout or not re.search(rf"^  {re.escape(argument)} ", done.stdout, re.MULTILINE):
            break
        subcommand.append(argument)
        done = run([program, *subcommand, "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert subcommand or program == "edgeqwend"
    for flag in (argument for argument in arguments if argument.startswith("-")):
        assert re.search(rf"(^|[\s,]){re.escape(flag)}\b", done.stdout), f"{flag} is not in the help of {program}"


def test_the_documented_links_lead_somewhere() -> None:
    """Relative links of the guides name files that are there."""
    for path in (REPO / "README.md", *(REPO / "docs").rglob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"
