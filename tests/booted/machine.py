"""A systemd of its own, for one run of scenario.sh, that can write to nothing of this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path

from cgroup2 import own_cgroup

REPO = Path(__file__).parents[2]
TOOLS = ("unshare", "pivot_root", "setpriv", "systemctl", "journalctl", "useradd")
_TIMEOUT_S = 300  # against hangs


def missing() -> str:
    """Why it cannot be had here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces of its own"
    if not Path("/lib/systemd/systemd").exists():
        return "needs systemd: apt-get install systemd"
    return "".join(f"needs {tool}; " for tool in TOOLS if shutil.which(tool) is None)


def run_scenario(package: Path) -> dict[str, str]:
    """What each part of scenario.sh printed, by the part's name."""
    base = Path(tempfile.mkdtemp(prefix="eq-"))
    try:
        with own_cgroup() as cgroup:
            output = _run(cgroup, base, package)
    finally:
        base.rmdir()
    parts = output.split("\n== ")
    assert parts[-1].strip() == "end", output[-4000:]
    return {name: text for name, _, text in (part.partition("\n") for part in parts[1:-1])}


def _run(cgroup: Path, base: Path, package: Path) -> str:
    namespaces = ("--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child")
    script = REPO / "tests/booted/own_root.sh"
    mark = f"edgeqwen-copy-{secrets.token_hex(8)}"
    places = (REPO, package, sys.base_prefix, sysconfig.get_path("purelib"), base)
    command = ["unshare", *namespaces, "bash", str(script), mark, *map(str, places)]
    enter = ["bash", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup), *command]
    process = subprocess.Popen(
        enter, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    limit = threading.Timer(_TIMEOUT_S, (cgroup / "cgroup.kill").write_text, ("1",))
    limit.start()
    with process.stdout:
        for line in process.stdout:
            lines.append(line)
            if line == "== end\n":
                break
    limit.cancel()
    process.kill()
    process.wait()
    return "\n" + "".join(lines)
