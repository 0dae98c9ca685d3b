"""The commands as people and scripts use them where no daemon runs."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from signing import make_key, sign_package, trust_folder
from unit.runtime.store.stocked import BY, built, serves

from edgeqwen.client import Connection
from runtime.store.state import Cause, roll_back
from runtime.store.state import commit as keep
from runtime.store.store import Store
from runtime.updates.command import activate, commit, install, rollback
from runtime.updates.lookups import collect, history, packages


class Device:
    """A store, whom it trusts, and nobody at the socket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = make_key(folder, "fleet")
        self._trust = trust_folder(folder / "trust.d", self._key.with_suffix(".pem"))
        self.store = Store(folder / "store")

    def package(self, version: str, *, signed: bool = True) -> Path:
        root = built(self._folder, version)
        return sign_package(root, self._key) if signed else root

    def run(self, command: click.Command, *arguments: object) -> Result:
        where = ["--store", str(self.store.folder)]
        trust = ["--trust", str(self._trust)] if command is install else []
        nobody = Connection(f"unix:{self._folder}/nobody.sock")
        return CliRunner().invoke(command, [*map(str, arguments), *where, *trust], obj=nobody, catch_exceptions=False)

    def ok(self, command: click.Command, *arguments: object) -> Any:
        """What it says in JSON."""
        done = self.run(command, *arguments, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, command: click.Command, *arguments: object) -> tuple[int, str]:
        """Exit status and the one line."""
        done = self.run(command, *arguments)
        assert done.stdout == ""
        [line] = [line for line in done.stderr.splitlines() if "installing" not in line]
        return done.exit_code, line.removeprefix("edgeqwen: ")


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_the_life_of_an_update(device: Device) -> None:
    """Each step twice: the second changes nothing, and exits with 0 as well."""
    first, second = device.package("1.0.0"), device.package("1.1.0")
    for step, changed in ((first, True), (first, False)):
        said = device.ok(install, step, "--activate")
        assert (said["changed"], said["version"], said["activation"]["serving"]["trial"]) == (changed, "1.0.0", True)
        assert said["signer"].startswith("the key sha256:")
    assert [device.ok(commit)["changed"] for _ in range(2)] == [True, False]
    assert device.ok(install, second)["activation"] is None
    assert serves(device.store) == "1.0.0"
    for changed in (True, False):
        said = device.ok(activate)
        assert (said["changed"], said["serving"]["version"], said["serving"]["slot"]) == (changed, "1.1.0", "b")
        assert not said["by_daemon"]
    for changed in (True, False):
        said = device.ok(rollback, "--why", "as a test")
        assert (said["changed"], said["serving"]["version"], said["serving"]["trial"]) == (changed, "1.0.0", False)
    events = device.ok(history)["history"]
    assert [(each["event"], each["version"], each["slot"]) for each in events] == [
        ("installed", "1.0.0", None),
        ("activated", "1.0.0", "a"),
        ("committed", "1.0.0", "a"),
        ("installed", "1.1.0", None),
        ("activated", "1.1.0", "b"),
        ("rolled_back", "1.1.0", "b"),
    ]
    assert events[-1]["why"] == "as a test"
    assert events[0]["why"] == f"from {first}"
    assert {each["by"].split(",")[0] for each in events} == {"root" if os.geteuid() == 0 else os.environ.get("USER")}
    assert events[-1]["time"].endswith("+00:00")


def test_people_are_told_in_words(device: Device) -> None:
    """What happened, what serves, and what does not yet."""
    done = device.run(install, device.package("1.0.0"), "--activate")
    installed, activated = done.stdout.splitlines()
    assert installed.startswith("installed tiny 1.0.0, signed by the key sha256:")
    assert activated == "activated tiny 1.0.0, on trial, slot a"
    assert "no daemon runs here: edgeqwend serves it when it starts, if it passes its canary" in done.stderr
    assert device.run(commit).stdout == "committed tiny 1.0.0, slot a\n"
    assert device.run(commit).stdout == "nothing to do: tiny 1.0.0 serves, slot a\n"
    assert device.run(rollback).stdout == "nothing to do: tiny 1.0.0 serves, slot a\n"
    listed = device.run(packages).stdout.splitlines()
    assert listed[0].split() == ["package", "variant", "slot", "size", "signed", "by", "digest"]
    assert listed[1].split()[:5] == ["tiny", "1.0.0", "board", "a", "serves"]
    lines = device.run(history).stdout.splitlines()
    assert [line.split()[2] for line in lines[1:]] == [
        "installed",
        "activated",
        "committed",
    ]  # each on a line of its own


def test_a_board_without_packages(device: Device) -> None:
    """Looking is no error; asking for one is."""
    assert device.ok(packages)["packages"] == []
    assert device.ok(history) == {"history": []}
    assert device.refused(activate) == (4, "no package is installed: edgeqwen install REF")
    assert device.ok(rollback)["serving"] is None
    assert not device.ok(collect)["changed"]


def test_each_refusal_has_its_exit_status(device: Device, tmp_path: Path) -> None:
    """And one line that says what to do."""
    old, good = device.package("1.0.0"), device.package("1.1.0")
    unsigned = device.package("1.2.0", signed=False)
    device.ok(install, old)
    device.ok(install, good, "--activate")
    device.ok(commit)
    status, line = device.refused(install, unsigned)
    assert (status, "is not signed" in line) == (5, True)
    status, line = device.refused(activate, "1.0.0")
    assert (status, "--allow-downgrade" in line) == (6, True)
    status, line = device.refused(activate, "3.0.0")
    assert (status, line.startswith("no package 3.0.0 is installed; there are: tiny-1.0.0-")) == (4, True)
    shutil.rmtree(old)
    status, line = device.refused(install, old)
    assert status == 4
    assert device.refused(install, "oci://-")[0] == 2
    for why in ("x" * 201, "a\nb", "\x1b[2J"):
        assert device.run(rollback, "--why", why).exit_code == 2
    with device.store.installing():
        status, line = device.refused(install, good)
    assert (status, "try again" in line) == (75, True)
    assert device.ok(activate, "1.0.0", "--allow-downgrade")["serving"]["version"] == "1.0.0"
    status, line = device.refused(activate, "--wait", "900", "1.0.0")
    assert (status, "is tried when edgeqwend starts" in line) == (75, True)


def test_the_first_package_has_none_behind_it(device: Device) -> None:
    """A rollback of its trial is refused, and changes nothing."""
    device.ok(install, device.package("1.0.0"), "--activate")
    status, line = device.refused(rollback)
    assert (status, line) == (1, "tiny 1.0.0 is the first package here: there is none to go back to")
    assert serves(device.store) == "1.0.0"


def test_what_failed_by_itself_is_not_tried_again_unasked(device: Device) -> None:
    """A provisioning script that runs every hour does not bring a bad package back; a person can."""
    device.ok(install, device.package("1.0.0"), "--activate")
    device.ok(commit)
    bad = device.package("1.1.0")
    device.ok(install, bad, "--activate")
    device.store.change(partial(roll_back, cause=Cause(BY.time_s, "edgeqwend", "3 starts with it")))
    done = device.run(install, bad, "--activate", "--json")
    assert (done.exit_code, done.stdout) == (7, "")
    assert "tiny 1.1.0 was rolled back here on 1970-01-01" in done.stderr
    assert "(3 starts with it): --again tries it once more" in done.stderr
    assert device.refused(activate, "1.1.0")[0] == 7
    assert serves(device.store) == "1.0.0"
    assert device.ok(install, bad, "--activate", "--again")["activation"]["serving"]["version"] == "1.1.0"
    device.ok(rollback)  # by a person: nothing against it then
    assert device.ok(activate, "1.1.0")["changed"]


def test_a_rollback_of_one_package_only(device: Device) -> None:
    """A script that undoes a wave leaves boards alone which never took part in it."""
    device.ok(install, device.package("1.0.0"), "--activate")
    device.ok(commit)
    device.ok(install, device.package("1.1.0"), "--activate")
    device.ok(commit)
    assert not device.ok(rollback, "--if-active", "1.2.0")["changed"]
    assert serves(device.store) == "1.1.0"
    assert device.ok(rollback, "--if-active", "tiny-1.1.0")["serving"]["version"] == "1.0.0"


def test_damage_is_found_and_repaired(device: Device) -> None:
    """By reading every file; the exit status says it too."""
    root = device.package("1.0.0")
    path = Path(device.ok(install, root)["path"])
    (path / "models/decoder/board/serving.onnx").write_bytes(b"gr4ph")
    assert device.run(packages).exit_code == 0
    done = device.run(packages, "--verify", "--json")
    [found] = json.loads(done.stdout)["packages"]
    assert (done.exit_code, "is corrupt" in found["damage"]) == (4, True)
    assert "`edgeqwen install REF --repair` mends it" in done.stderr
    assert not device.ok(install, root)["changed"]
    assert device.ok(install, root, "--repair")["changed"]
    assert device.run(packages, "--verify").exit_code == 0


def test_whoever_waits_hears_when_the_trial_has_ended(device: Device) -> None:
    """Also where somebody else ends it; and that it has not, where it takes longer."""
    device.ok(install, device.package("1.0.0"), "--activate")
    done = device.run(packages, "--wait", "0.01", "--json")
    assert (done.exit_code, json.loads(done.stdout)["packages"][0]["trial"]) == (75, True)
    assert "tiny 1.0.0 is still on trial after 0.01 s" in done.stderr
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(device.ok, packages, "--wait", "3600")
        device.store.change(partial(keep, cause=BY))
        assert not waiting.result()["packages"][0]["trial"]


def test_collect_says_what_went(device: Device) -> None:
    """In words and for scripts."""
    device.ok(install, device.package("1.0.0"), "--activate")
    device.ok(install, device.package("1.1.0"))
    assert not device.ok(collect)["changed"]
    said = device.ok(collect, "--budget", "0")
    assert (said["changed"], [each["version"] for each in said["removed"]]) == (True, ["1.1.0"])
    assert device.run(collect, "--budget", "0").stdout.endswith("MB in packages, of 0 MB\n")
    assert device.run(collect, "--budget", "much").exit_code == 2


def test_the_store_is_the_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither flag nor environment says another, its configuration does, whatever else is in it."""
    config = tmp_path / "edgeqwend.yaml"
    config.write_text(f"store: {{path: {tmp_path}/ours, budget_bytes: 5}}\nqueue_limit: 3\n")
    monkeypatch.setenv("EDGEQWEN_CONFIG", str(config))
    assert json.loads(CliRunner().invoke(packages, ["--json"]).stdout)["store"] == f"{tmp_path}/ours"
    monkeypatch.setenv("EDGEQWEN_STORE", f"{tmp_path}/another")
    assert json.loads(CliRunner().invoke(packages, ["--json"]).stdout)["store"] == f"{tmp_path}/another"
    monkeypatch.delenv("EDGEQWEN_STORE")
    config.write_text("store: [1]\n")
    done = CliRunner().invoke(packages, [])
    assert (done.exit_code, done.stdout) == (3, "")
