"""Asks systemd: its programs, as commands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import DeployError
from .plan import SYSUSERS_PATH, TMPFILES_PATH, UNIT
from .target import Target

Run = Callable[[Sequence[str]], str]
"""Runs a command and returns what it prints. Raises DeployError if it fails."""

_BOOTED = Path("/run/systemd/system")  # sd_booted(3)


def run(command: Sequence[str]) -> str:
    """As `Run` says."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DeployError(f"{command[0]} is not installed: it belongs to systemd") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split()) or f"it exited with {done.returncode}"
        raise DeployError(f"`{' '.join(command)}` failed: {said}")
    return done.stdout


def require_root(euid: int | None = None) -> None:
    """Raises DeployError unless this process may change the system."""
    if (os.geteuid() if euid is None else euid) != 0:
        raise DeployError("only root may change services: run it with sudo")


class Manager:
    """systemd of `target`. Of an image nothing runs, so it only makes its users, folders and links."""

    def __init__(self, target: Target, run: Run = run, booted: Path = _BOOTED) -> None:
        self._target = target
        self._run = run
        self._booted = booted

    def require_running(self) -> None:
        """Raises DeployError where systemd does not run."""
        if self._target.is_this_machine and not self._booted.is_dir():
            raise DeployError("systemd does not run this machine: prepare an image's file system with --root DIR")

    def prepare(self) -> None:
        """Makes the user and the folders, by our own two files alone."""
        self._run(["systemd-sysusers", *self._root(), str(self._target.path(SYSUSERS_PATH))])
        self._run(["systemd-tmpfiles", *self._root(), "--create", str(self._target.path(TMPFILES_PATH))])

    def enable(self) -> None:
        self._reload_units()
        self._run(["systemctl", *self._root(), "enable", "--quiet", UNIT])

    def disable(self) -> None:
        """Stops it too."""
        now = ["--now"] if self._target.is_this_machine else []
        self._run(["systemctl", *self._root(), "disable", "--quiet", *now, UNIT])

    def start(self) -> None:
        """With the units and the configuration that are there now."""
        self._run(["systemctl", "restart", UNIT])

    def forget(self) -> None:
        """What was removed is no longer known, and neither is how it failed."""
        self._reload_units()
        if self._target.is_this_machine:
            try:
                self._run(["systemctl", "reset-failed", UNIT])
            except DeployError:
                return  # it was not loaded

    def show(self, properties: Sequence[str]) -> dict[str, str]:
        """Properties of the unit; one that this systemd does not know is not there."""
        lines = self._run(["systemctl", "show", UNIT, f"--property={','.join(properties)}"]).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def _reload_units(self) -> None:
        if self._target.is_this_machine:
            self._run(["systemctl", "daemon-reload"])

    def _root(self) -> list[str]:
        return [] if self._target.is_this_machine else [f"--root={self._target.root}"]
