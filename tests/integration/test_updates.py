"""A board that is updated from a real registry, as its provisioning does it: signed packages, a daemon, the command."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from integration.daemons import Daemon, start
from registries import Registry, registry
from signing import make_key, sign_package, trust_folder

from edgeqwen.client import Client, Connection, Options
from runtime.store.store import Store
from runtime.updates.command import activate, commit, install, rollback
from runtime.updates.lookups import history, packages
from toolchain.cli import main as compiler

pytestmark = pytest.mark.slow

NAME = "pump-talk"


class Board:
    """Its store, whom it trusts, and how its commands are called."""

    def __init__(self, folder: Path, target: str) -> None:
        self.store = Store(folder / "store")
        self.target = target
        self._trust = folder / "trust.d"

    def run(self, command: click.Command, *arguments: str) -> tuple[int, Any]:
        """Exit status, and what it says: JSON, or why not."""
        where = ["--store", str(self.store.folder), "--json"]
        trust = ["--trust", str(self._trust)] if command is install else []
        done = CliRunner().invoke(
            command, [*arguments, *where, *trust], obj=Connection(self.target), catch_exceptions=False
        )
        return done.exit_code, json.loads(done.stdout) if done.exit_code == 0 else done.stderr

    def ok(self, command: click.Command, *arguments: str) -> Any:
        """Once more, while other programs keep this machine too busy for the canary to tell how fast a model is."""
        status, said = self.run(command, *arguments)
        while status == 7 and re.search("failed its canary: (speed|first token)", said):
            status, said = self.run(command, *arguments, "--again")
        assert status == 0, said
        return said


class Fleet:
    """A build host with a key, and the registry that it pushes to."""

    def __init__(self, folder: Path, base: Path, to: Registry) -> None:
        self._folder, self._base, self._registry = folder, base, to
        self._key = make_key(folder, "fleet")
        trust_folder(folder / "trust.d", self._key.with_suffix(".pem"))

    def push(self, version: str, *, golden: list[int] | None = None, signed: bool = True) -> str:
        """The same model as another version; `golden` is what its transcript says instead. Returns its reference."""
        root = self._folder / f"built-{version}" / f"{NAME}.ortpackage"
        shutil.copytree(self._base, root)
        [path] = root.glob("models/decoder/*/build.json")
        build = json.loads(path.read_bytes()) | {"name": NAME, "version": version}
        if golden is not None:
            build["golden"]["greedy_ids"] = golden
        path.write_text(json.dumps(build))
        if signed:
            sign_package(root, self._key)
        reference = f"oci://{self._registry.host}/edge/{NAME}:{version}"
        done = CliRunner().invoke(compiler, ["push", str(root), reference], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return reference


@pytest.fixture
def fleet(tmp_path: Path, small_package: Path) -> Iterator[Fleet]:
    with registry(tmp_path / "registry") as found:
        yield Fleet(tmp_path, small_package, found)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:  # a socket's path must be short
        yield Board(tmp_path, f"unix:{folder}/d.sock")


@contextmanager
def daemon_of(board: Board, folder: Path, **settings: object) -> Iterator[Daemon]:
    config = folder / "edgeqwend.yaml"
    config.write_text(yaml.safe_dump({"store": {"path": str(board.store.folder), **settings}}))
    with start(None, "--config", str(config), listen=board.target) as daemon:
        yield daemon


def test_a_board_is_updated_and_keeps_what_is_good(fleet: Fleet, board: Board, tmp_path: Path) -> None:
    """The first package without a daemon; an update that proves itself; a bad one that does not get through, today nor
    in the next run of the script; one that nobody signed; and back, by hand. Each command twice changes nothing."""
    first = fleet.push("1.0.0")
    said = board.ok(install, first, "--activate")
    assert (said["changed"], said["activation"]["by_daemon"]) == (True, False)
    weights = max(path.stat().st_size for path in Path(said["path"]).rglob("*"))
    assert said["fetched_bytes"] > weights
    with daemon_of(board, tmp_path, commit_after_s=1) as daemon, Client(daemon.target) as client:
        assert board.ok(activate, "--wait", "600")["serving"]["trial"] is False
        answer = client.complete("One, two,", options=Options(max_tokens=8, ignore_eos=True)).text

        update = fleet.push("1.1.0")
        said = board.ok(install, update)
        assert said["linked_bytes"] >= weights > said["fetched_bytes"]  # the same weights
        assert client.rollout().active.version == "1.0.0"
        serving = {"folder": said["package"], "name": NAME, "version": "1.1.0", "slot": "b", "trial": False}
        said = board.ok(activate, "--wait", "600")
        assert (said["changed"], said["by_daemon"], said["serving"]) == (True, True, serving)
        assert "golden transcript" in said["checks"]
        again = board.ok(install, update, "--activate", "--wait", "600")
        assert (again["changed"], again["activation"]["changed"], again["fetched_bytes"]) == (False, False, 0)

        bad = fleet.push("1.2.0", golden=[5, 6, 7, 8])
        status, why = board.run(install, bad, "--activate")
        assert (status, "failed: golden transcript" in why, "failed its canary" in why) == (7, True, True)
        status, why = board.run(install, bad, "--activate")
        assert (status, "--again tries it once more" in why) == (7, True)
        assert client.rollout().active.version == "1.1.0"

        status, why = board.run(install, fleet.push("1.3.0", signed=False))
        assert (status, "is not signed" in why) == (5, True)
        status, why = board.run(install, first, "--activate")
        assert (status, "older than 1.1.0" in why) == (6, True)

        assert board.ok(rollback, "--why", "as a test")["serving"]["version"] == "1.0.0"
        assert not board.ok(rollback)["changed"]
        assert client.complete("One, two,", options=Options(max_tokens=8, ignore_eos=True)).text == answer
        assert not board.ok(commit)["changed"]
        listed = {each["version"]: each for each in board.ok(packages, "--verify")["packages"]}
        assert {version: (its["active"], its["damage"]) for version, its in listed.items()} == {
            "1.0.0": (True, ""),
            "1.1.0": (False, ""),
            "1.2.0": (False, ""),
        }
    told = [(each["event"], each["version"]) for each in board.ok(history)["history"]]
    assert [each for each in told if each != ("refused", "1.1.0")] == [  # a busy machine's, if any
        ("installed", "1.0.0"),
        ("activated", "1.0.0"),
        ("committed", "1.0.0"),
        ("installed", "1.1.0"),
        ("activated", "1.1.0"),
        ("committed", "1.1.0"),
        ("installed", "1.2.0"),
        ("refused", "1.2.0"),
        ("rolled_back", "1.1.0"),
    ]
