"""Where Ansible runs: this checkout's playbooks, an inventory of the site's boards."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from fleet.site import Board, Site

REPO = Path(__file__).parents[2]
PLAYBOOKS = REPO / "provisioning" / "ansible"
_GUIDE = (REPO / "docs" / "deploying.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Play:
    """What became of a playbook. `recap` has, by board, how many tasks were ok, changed, failed, unreachable."""

    exit_status: int
    output: str

    @property
    def text(self) -> str:
        """The output in one line, as Ansible breaks long ones."""
        return " ".join(self.output.split())

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        lines = re.findall(r"^(\S+)\s+: (ok=.*)$", self.output.partition("PLAY RECAP")[2], re.MULTILINE)
        return {board: {key: int(number) for key, number in re.findall(r"(\w+)=(\d+)", line)} for board, line in lines}

    def of(self, count: str) -> dict[str, int]:
        """That number by board."""
        return {board: numbers[count] for board, numbers in self.recap.items()}


def documented(playbook: str) -> list[list[str]]:
    """The arguments with which the guide calls it, in the guide's order."""
    lines = re.findall(rf"^ansible-playbook {re.escape(playbook)}(.*)$", _GUIDE, re.MULTILINE)
    assert lines, f"docs/deploying.md does not call {playbook}"
    return [shlex.split(line, comments=True) for line in lines]


def setting(**changed: object) -> str:
    """The inventory's settings of the daemon with these beside or instead."""
    listen = ["unix:/run/edgeqwen/edgeqwend.sock", "0.0.0.0:50443"]
    return json.dumps({"edgeqwen_config": {"listen": listen, "store": {"commit_after_s": 2}, **changed}})


class Controller:
    """Runs the playbooks as an operator would, on boards with these variables."""

    def __init__(self, site: Site, boards: Sequence[Board], variables: Mapping[str, object]) -> None:
        self._site = site
        self._variables = variables
        self.inventory = site.folder / f"{boards[0].name}.yml"
        hosts = {board.name: {"ansible_host": board.address} for board in boards}
        settings = {"ansible_user": "admin", "ansible_ssh_common_args": f"-F {site.ssh_config}", **variables}
        self.inventory.write_text(yaml.safe_dump({"edgeqwen": {"hosts": hosts, "vars": settings}}, sort_keys=False))

    def beside(self, boards: Sequence[Board], **changed: object) -> Controller:
        """One for other boards, with an inventory of their own."""
        return Controller(self._site, boards, {**self._variables, **changed})

    def play(self, name: str, *arguments: str) -> Play:
        """One of the playbooks, whatever becomes of it."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._site.folder),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        program = Path(sys.executable).parent / "ansible-playbook"
        done = self._site.run(program, "-i", self.inventory, PLAYBOOKS / name, *arguments, env=environment)
        return Play(done.returncode, done.stdout + done.stderr)
