"""`make demo` does the main job: compile, serve, ask, stop."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from integration.daemons import Daemon

from edgeqwen.client import Client, Options

pytestmark = pytest.mark.slow

GREEDY = Options(temperature=0.0, max_tokens=256)
DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"


def demo(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(DEMO), *flags], capture_output=True, text=True, check=False)


def test_the_demo_answers_and_says_what_it_took(int4_daemon: Daemon, build_cache: Path, tmp_path: Path) -> None:
    """What any daemon with this package answers, and the figures: generation, prompt, time to first token, memory. The
    daemon is gone afterwards."""
    with Client(int4_daemon.target) as client:
        expected = client.chat([("user", "How many days are in a week?")], options=GREEDY).text
    done = demo("--output", str(tmp_path), "--cache", str(build_cache / "cache"))
    assert done.returncode == 0, done.stderr
    _, _, answer, figures = re.split(r"^== .*\n", done.stdout, flags=re.MULTILINE)[1:]
    assert expected
    assert answer.strip() == expected.strip()
    for what in (
        "generation +[0-9.]+ tokens/s",
        "prompt +[0-9.]+ tokens/s",
        "first token [0-9]+ ms",
        "memory +[0-9]+ MB",
    ):
        assert re.search(what, figures), figures
    assert figures.endswith("the daemon stopped, exit status 0\n")


def test_the_demo_passes_on_why_a_model_cannot_be_compiled(tmp_path: Path) -> None:
    """The compiler's own line and exit status."""
    done = demo("--model", str(tmp_path / "nowhere"), "--output", str(tmp_path), "--cache", str(tmp_path))
    assert done.returncode == 7
    assert "there is no folder or file" in done.stderr
