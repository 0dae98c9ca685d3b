"""Three real daemons as a fleet: asked side by side, and scraped through TLS by a Prometheus that discovers them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from click.testing import CliRunner
from integration.daemons import Daemon, start
from integration.dashboards import FOLDER, require_choices, require_data
from integration.full_board import serving
from integration.prometheus import Prometheus, running

from edgeqwen.cli import main
from edgeqwen.client import Client, Options
from runtime.package import Package
from runtime.store import state as steps
from runtime.store.state import Cause, Installed
from runtime.store.store import Store

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
VERSIONS = {"pump-1": "1.0.0", "pump-2": "1.1.0", "pump-10": "1.1.0"}
WITH_A_STORE = "pump-10"


@dataclass(frozen=True)
class Fleet:
    """Daemons by their boards' names, where their metrics are, and the name of the model that all run."""

    daemons: dict[str, Daemon]
    metrics: dict[str, str]
    model: str

    def chat(self) -> None:
        """Asks each of them something."""
        for daemon in self.daemons.values():
            with Client(daemon.target) as client:
                client.complete("a", options=Options(max_tokens=2, ignore_eos=True))

    def inventory(self, file: Path, **metrics_targets: str) -> Path:
        """As `ansible-inventory --list` prints it: two groups, one within the other."""
        hosts = {
            name: {
                "edgeqwen_target": daemon.target,
                "edgeqwen_variant": "generic-x86_64",
                "edgeqwen_metrics_target": metrics_targets.get(name, self.metrics[name]),
            }
            for name, daemon in self.daemons.items()
        }
        groups = {"site": {"children": ["pumps"]}, "pumps": {"hosts": list(hosts)}}
        file.write_text(json.dumps({"_meta": {"hostvars": hosts}, **groups}))
        return file


@pytest.fixture(scope="module")
def fleet(small_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One model in two versions; one of the boards has a store, in which the second is on trial."""
    folder = tmp_path_factory.mktemp("fleet")
    versions = sorted(set(VERSIONS.values()))
    packages = {its: copied(small_package, folder / f"small-{its}.ortpackage", its) for its in versions}
    with ExitStack() as stack:
        daemons, metrics = {}, {name: free_address() for name in VERSIONS}
        for name, address in metrics.items():
            served: list[Any] = [packages[VERSIONS[name]]]
            if name == WITH_A_STORE:
                served = [None, "--store", str(a_store(folder / "store", *packages.values()))]
            daemons[name] = stack.enter_context(start(*served, "--no-verify", "--metrics-listen", address))
        yield Fleet(daemons, metrics, Package.open(packages["1.0.0"], verify=False).build.name)


def copied(package: Path, to: Path, its_version: str) -> Path:
    """The same package under another version."""
    shutil.copytree(package, to)
    [build] = to.glob("models/decoder/*/build.json")
    build.write_text(json.dumps(json.loads(build.read_text()) | {"version": its_version}))
    return to


def a_store(folder: Path, first: Path, second: Path) -> Path:
    """A store that has committed `first` and has `second` on trial."""
    store = Store(folder)
    for package in (first, second):
        store.change(lambda state: steps.commit(state, Cause(time.time(), "test")))
        shutil.copytree(package, store.packages / package.name)
        opened = Package.open(package, verify=False)
        build = opened.build
        its = Installed(package.name, build.name, build.version, build.variant, opened.build_digest, "", time.time())
        store.change(lambda state, its=its: steps.install(state, its, Cause(time.time(), "test")))
        store.change(lambda state, its=its: steps.activate(state, its.folder, Cause(time.time(), "test")))
    return folder


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def status(inventory: Path) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(main, ["fleet", "status", "-i", str(inventory), "--timeout", "60", "--json"])
    return done.exit_code, json.loads(done.stdout)


def test_real_boards_are_seen_side_by_side(fleet: Fleet, tmp_path: Path) -> None:
    """Who runs which version, and how each is, by its own report; a board that is away is first."""
    inventory = fleet.inventory(tmp_path / "fleet.json")
    exit_code, told = status(inventory)
    assert told["packages"] == {f"{fleet.model} 1.1.0": 2, f"{fleet.model} 1.0.0": 1}
    boards = {board["board"]: board for board in told["boards"]}
    assert boards.keys() == VERSIONS.keys()
    for name, board in boards.items():
        assert board["groups"] == ["pumps", "site"]
        assert [model["package_version"] for model in board["models"]] == [VERSIONS[name]]
        assert (board["slot"], board["trial"]) == (("b", True) if name == WITH_A_STORE else (None, None))
        assert board["daemon_version"] == version("edgeqwen")
        assert board["daemon_rss_bytes"] > 1 << 20
        with Client(board["target"]) as client:
            assert client.health() == "SERVING"
        assert board["state"] in ("serving", "degraded")  # a machine that is busy may well be short of something
        assert (board["state"] == "serving") == (board["reason"] is None)
    assert exit_code == (0 if told["summary"]["serving"] == 3 else 1)

    listed = json.loads(inventory.read_text())
    listed["_meta"]["hostvars"]["pump-3"] = {"edgeqwen_target": free_address()}
    inventory.write_text(json.dumps(listed))
    exit_code, told = status(inventory)
    assert exit_code == 1
    assert (told["boards"][0]["board"], told["boards"][0]["state"]) == ("pump-3", "unreachable")
    assert told["summary"]["unreachable"] == 1


def block(kind: str, mark: str) -> str:
    """The block of the guide that has `mark` in it."""
    text = (DOCS / "fleet.md").read_text(encoding="utf-8")
    [found] = [each for each in re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if mark in each]
    return str(found)


@contextmanager
def behind_tls(metrics: str, authority: Authority, folder: Path) -> Iterator[str]:
    """stunnel before an endpoint on loopback, configured as the guide has it; yields HOST:PORT."""
    program = shutil.which("stunnel4")
    if program is None:
        pytest.skip("needs stunnel: apt install stunnel4")
    board, address = authority.server(file=f"board-{metrics.rpartition(':')[2]}"), free_address()
    config = replaced(
        block("ini", "accept"),
        {
            "accept = 9465": f"accept = {address}",
            "127.0.0.1:9464": metrics,
            "/etc/edgeqwen/board.pem": str(board.certificate),
            "/etc/edgeqwen/board.key": str(board.key),
            "/etc/edgeqwen/fleet-ca.pem": str(authority.file),
        },
    )
    if os.geteuid() != 0:
        config = re.sub(r"^set[ug]id.*\n", "", config, flags=re.MULTILINE)
    file = folder / f"{address}.conf"
    file.write_text(config)
    with (folder / "stunnel.log").open("a") as log:
        process = subprocess.Popen([program, str(file)], stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


@dataclass(frozen=True)
class Scraped:
    """A Prometheus that scrapes the fleet, and where it finds each board, by name."""

    prometheus: Prometheus
    addresses: dict[str, str]


@pytest.fixture(scope="module")
def scraped(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """As the guide says: the file of `edgeqwen fleet targets`, TLS with certificates, our alerts.

    Beside them it scrapes a board that has everything.
    """
    folder = tmp_path_factory.mktemp("prometheus")
    authority = Authority(folder)
    client = authority.issue("prometheus")
    with ExitStack() as stack:
        full = stack.enter_context(serving())
        behind = {
            name: stack.enter_context(behind_tls(metrics, authority, folder)) for name, metrics in fleet.metrics.items()
        }
        inventory = fleet.inventory(folder / "fleet.json", **behind)
        arguments = ["fleet", "targets", "-i", str(inventory), "-o", str(folder / "edgeqwen.json"), "--json"]
        assert json.loads(CliRunner().invoke(main, arguments).stdout)["changed"] is True
        config = replaced(
            block("yaml", "file_sd_configs"),
            {
                "/etc/prometheus/edgeqwen.json": str(folder / "edgeqwen.json"),
                "/etc/prometheus/fleet-ca.pem": str(authority.file),
                "/etc/prometheus/prometheus.pem": str(client.certificate),
                "/etc/prometheus/prometheus.key": str(client.key),
                "/etc/prometheus/": f"{DOCS}/prometheus/",
                "15s": "1s",
            },
        )
        labels = "{board: full, group: full, instance: full}"
        config += f'  - {{job_name: full, static_configs: [{{targets: ["{full}"], labels: {labels}}}]}}\n'
        yield Scraped(stack.enter_context(running(config, folder)), behind)


def replaced(text: str, changes: dict[str, str]) -> str:
    """With what is on a board changed into what is here, all of which must be there."""
    for there, here in changes.items():
        assert there in text
        text = text.replace(there, here)
    return text


def test_boards_are_discovered_and_named_as_in_the_inventory(scraped: Scraped) -> None:
    """Each answers through TLS; its series have its name, its group and its profile."""
    up = scraped.prometheus.wait_for('up{job="edgeqwen"} == 1', lambda found: len(found) == len(VERSIONS))
    assert {each["metric"]["instance"] for each in up} == VERSIONS.keys()
    assert {(each["metric"]["group"], each["metric"]["profile"]) for each in up} == {("pumps", "generic-x86_64")}
    versions = scraped.prometheus.wait_for(
        'count by (package_version) (edgeqwen_model_info{job="edgeqwen"})', lambda found: len(found) == 2
    )
    assert {each["metric"]["package_version"]: each["value"][1] for each in versions} == {"1.0.0": "1", "1.1.0": "2"}
    [tried] = scraped.prometheus.wait_for('edgeqwen_package_info{job="edgeqwen", trial="true"}')
    assert (tried["metric"]["instance"], tried["metric"]["version"], tried["metric"]["slot"]) == (
        "pump-10",
        "1.1.0",
        "b",
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_who_has_no_certificate_of_the_fleet_sees_nothing(scraped: Scraped) -> None:
    """The way in is for Prometheus alone, which has been let in."""
    scraped.prometheus.wait_for('up{job="edgeqwen"} == 1', lambda found: len(found) == len(VERSIONS))
    for address in scraped.addresses.values():
        done = subprocess.run(["curl", "-sk", f"https://{address}/metrics"], capture_output=True, check=False)
        assert (done.stdout, done.returncode != 0) == (b"", True)


def test_the_alerts_can_be_asked(scraped: Scraped) -> None:
    """Prometheus evaluates each without an error."""
    scraped.prometheus.wait_for("up")
    rules = scraped.prometheus.rules()
    while any(rule["health"] == "unknown" for rule in rules):  # not evaluated yet
        rules = scraped.prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    assert {rule["name"] for rule in rules} >= {"EdgeqwenDown", "EdgeqwenBoardsDown"}


def test_every_panel_of_the_fleet_has_data(fleet: Fleet, scraped: Scraped) -> None:
    """From the real boards; of sensors and stores from the one that has everything."""
    prometheus = scraped.prometheus
    prometheus.wait_for("count_over_time(edgeqwen_slots[1m]) >= 3", lambda found: len(found) == len(VERSIONS) + 1)
    require_data(FOLDER / "edgeqwen-fleet.json", prometheus, fleet.chat)
    require_choices(FOLDER / "edgeqwen-fleet.json", prometheus)
