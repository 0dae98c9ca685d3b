"""`edgeqwen service`: what it places, what it leaves, and what it says. Nothing here touches this machine's systemd."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from unit.runtime.tiny_package import make_package

from runtime.configuration.config import Config
from runtime.configuration.otel_settings import OtelSettings
from runtime.deploy.apply import apply
from runtime.deploy.command import service
from runtime.deploy.expectation import expect, network_of, provider_of
from runtime.deploy.manager import Manager, require_root
from runtime.deploy.plan import DROP_INS, UNIT_PATH, DropIns, Entry, plan
from runtime.deploy.status import read_status
from runtime.deploy.target import Target
from runtime.errors import DeployError
from runtime.package import Package
from runtime.store import state as steps
from runtime.store.recovery import describe
from runtime.store.state import Cause
from runtime.store.store import Store

CAUSE = Cause(1.0, "root")

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("systemctl", "systemd-sysusers", "systemd-tmpfiles"))),
    reason="makes an image's users, for which it needs root and systemd's programs: apt-get install systemd",
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image's file system with edgeqwen in /opt and a package."""
    root = tmp_path / "image"
    for name in ("edgeqwend", "edgeqwen"):
        (root / "opt/edgeqwen/bin").mkdir(parents=True, exist_ok=True)
        (root / "opt/edgeqwen/bin" / name).touch(mode=0o755)
    make_package(root / "var/lib/edgeqwen/tiny.ortpackage")
    (root / "etc").mkdir()
    (root / "etc/group").write_text("root:x:0:\nrender:x:105:\n")
    return root


PACKAGE = ("--package", "/var/lib/edgeqwen/tiny.ortpackage")


def call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(service, list(arguments))
    return done.exit_code, done.output


def install(root: Path, *flags: str) -> tuple[int, str]:
    return call("install", "--root", str(root), "--bin-dir", "/opt/edgeqwen/bin", *flags)


def tree(root: Path) -> dict[str, str]:
    """Every file and link under `root`, with its text or its aim; not what sysusers keeps of its own."""
    paths = [path for path in root.rglob("*") if path.is_symlink() or path.is_file()]
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in paths
        if path.name not in (".pwd.lock", "shadow", "gshadow") and not path.name.endswith("-")
    }


@as_root
def test_an_image_is_prepared_and_a_second_time_changes_nothing(image: Path) -> None:
    """Units, limits, commands, user, configuration, and the link that starts it at boot; nothing is started."""
    status, output = install(image, *PACKAGE)
    assert status == 0, output
    after = tree(image)
    assert after["usr/local/bin/edgeqwend"] == "/opt/edgeqwen/bin/edgeqwend"
    assert 'package: "/var/lib/edgeqwen/tiny.ortpackage"' in after["etc/edgeqwen/edgeqwend.yaml"]
    assert "MemoryMax=" in after["etc/systemd/system/edgeqwend.service.d/20-memory.conf"]
    assert "etc/systemd/system/multi-user.target.wants/edgeqwend.service" in after
    assert "edgeqwen:" in after["etc/passwd"]
    assert (image / "etc/edgeqwen").stat().st_mode & 0o777 == 0o750
    assert (image / "etc/edgeqwen/edgeqwend.yaml").stat().st_mode & 0o777 == 0o640
    status, output = install(image, "--json")
    assert {change["action"] for change in json.loads(output)["changes"]} == {"same", "keep"}
    assert tree(image) == after


@as_root
def test_what_was_installed_goes_and_the_rest_stays(image: Path) -> None:
    """Uninstall removes its own; configuration and packages only with --purge. Twice is no error."""
    before = set(tree(image))
    install(image, *PACKAGE)
    for _ in range(2):
        assert call("uninstall", "--root", str(image))[0] == 0
    assert set(tree(image)) - before == {"etc/edgeqwen/edgeqwend.yaml", "etc/passwd"}
    assert call("uninstall", "--root", str(image), "--purge")[0] == 0
    assert not (image / "etc/edgeqwen").exists()
    assert not (image / "var/lib/edgeqwen").exists()
    assert (image / "opt/edgeqwen/bin/edgeqwend").exists()


@as_root
def test_purge_follows_no_link(image: Path, tmp_path: Path) -> None:
    """What somebody put in the place of the folder of state is theirs."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (image / "etc/edgeqwen").symlink_to(precious)
    assert call("uninstall", "--root", str(image), "--purge")[0] == 0
    assert (precious / "file").exists()


def test_a_dry_run_shows_every_change_and_makes_none(image: Path) -> None:
    """Root or not."""
    before = tree(image)
    status, output = install(image, *PACKAGE, "--dry-run")
    assert status == 0, output
    assert "create   /etc/systemd/system/edgeqwend.service\n" in output
    assert "+Type=notify\n" in output
    assert "+MemoryHigh=" in output
    assert tree(image) == before


def test_a_difference_is_shown(image: Path) -> None:
    """A unit that was edited by hand is written again, and a dry run says what would be lost."""
    target = Target(image)
    entries = plan(DropIns(), "/opt/edgeqwen/bin", "")
    apply(entries, target, dry_run=False)
    unit = image / UNIT_PATH[1:]
    unit.write_text(unit.read_text().replace("Nice=5", "Nice=0"))
    [change] = [it for it in apply(entries, target, dry_run=True) if it.action != "same" and it.action != "keep"]
    assert (change.path, change.action) == (UNIT_PATH, "update")
    assert "-Nice=0\n+Nice=5\n" in change.diff


def test_a_drop_in_that_is_no_longer_needed_goes(image: Path) -> None:
    target = Target(image)
    apply(plan(DropIns(network="loopback"), "/opt/edgeqwen/bin", ""), target, dry_run=False)
    changes = apply(plan(DropIns(), "/opt/edgeqwen/bin", ""), target, dry_run=False)
    assert [it.path for it in changes if it.action == "remove"] == [f"{DROP_INS}/30-network.conf"]


def test_links_of_an_image_stay_in_the_image(image: Path, tmp_path: Path) -> None:
    """An absolute link, or one with too many dots, would lead to the machine that builds the image."""
    (image / "etc/systemd").symlink_to("/elsewhere")
    (image / "etc/sysusers.d").symlink_to("../../../../dots")
    apply(plan(DropIns(), "/opt/edgeqwen/bin", ""), Target(image), dry_run=False)
    assert (image / "elsewhere/system/edgeqwend.service").is_file()
    assert (image / "dots/edgeqwen.conf").is_file()
    (image / "loop").symlink_to("/loop")
    with pytest.raises(DeployError, match="leads in circles"):
        Target(image).path("/loop/file")


def test_what_is_in_the_way_is_left(image: Path) -> None:
    (image / UNIT_PATH[1:]).mkdir(parents=True)
    with pytest.raises(DeployError, match="is in the way and is no file"):
        apply([Entry(UNIT_PATH, "x")], Target(image), dry_run=False)


def test_limits_follow_package_and_settings(image: Path) -> None:
    """A quarter above what is expected MemoryHigh, a half MemoryMax; without a package there are none, and why."""
    expected = expect(Target(image), {"package": PACKAGE[1]})
    assert expected.unknown == ""
    assert expected.drop_ins.memory_bytes is not None
    [memory] = [entry for entry in plan(expected.drop_ins, "", "") if entry.path.endswith("20-memory.conf")]
    assert memory.content is not None
    high, most = (int(line.split("=")[1][:-1]) for line in memory.content.splitlines() if line.startswith("Memory"))
    assert 1.25 <= high * (1 << 20) / expected.drop_ins.memory_bytes < 1.26
    assert 1.5 <= most * (1 << 20) / expected.drop_ins.memory_bytes < 1.51
    nothing = expect(Target(image), {})
    assert nothing.drop_ins.memory_bytes is None
    assert "package: is required" in nothing.unknown


def test_a_store_has_its_share_of_memory_whatever_is_active(image: Path) -> None:
    """As packages of any size come; with none yet it says what is missing, and the rest is as it should be."""
    store = Store(image / "var/lib/edgeqwen/store")
    settings = {"store": "/var/lib/edgeqwen/store"}
    empty = expect(Target(image), settings)
    assert empty.unknown.startswith("no device is set: no package is active in /var/lib/edgeqwen/store: ")
    package = Package.open(make_package(store.packages / "tiny.ortpackage"))
    its = describe(package, "tiny.ortpackage", "", 1.0)
    store.change(lambda state: steps.activate(steps.install(state, its, CAUSE), its.folder, CAUSE))
    expected = expect(Target(image), settings)
    assert expected.unknown == ""
    for drop_ins in (empty.drop_ins, expected.drop_ins):
        assert (drop_ins.memory_bytes, drop_ins.shared_memory, drop_ins.writes) == (None, True, None)
    assert expect(Target(image), {"store": "/srv/store"}).drop_ins.writes == "/srv/store"


@as_root
def test_a_service_may_serve_a_store(image: Path) -> None:
    """At its usual place, unless another is named; a package beside it is a mistake."""
    status, output = install(image, "--store")
    assert status == 0, output
    assert 'store: "/var/lib/edgeqwen/store"' in (image / "etc/edgeqwen/edgeqwend.yaml").read_text()
    assert "MemoryMax=85%" in (image / DROP_INS[1:] / "20-memory.conf").read_text()
    assert install(image, "--store", "/srv/store", *PACKAGE)[0] == 2


def test_only_the_provider_in_use_gets_its_devices(image: Path) -> None:
    """A CPU none; OpenVINO those of its device; a simulated NPU none."""
    package = Package.open(image / "var/lib/edgeqwen/tiny.ortpackage")

    def on(provider: str) -> Package:
        profile = package.build.profile
        execution = profile.execution.model_copy(update={"provider": provider})
        build = package.build.model_copy(update={"profile": profile.model_copy(update={"execution": execution})})
        return Package(package.root, package.variant_dir, build, package.build_digest)

    assert provider_of(on("CPUExecutionProvider"), None) is None
    assert provider_of(on("CUDAExecutionProvider"), None) == "cuda"
    assert provider_of(on("QNNExecutionProvider"), None) == "qnn"
    assert provider_of(on("QNNExecutionProvider"), None, simulate=True) is None
    assert provider_of(on("OpenVINO"), "GPU.1") == "openvino-gpu"
    assert provider_of(on("OpenVINO"), "CPU") == "openvino-cpu"


@pytest.mark.parametrize(
    ("listen", "network"),
    [
        ("unix:/run/edgeqwen/edgeqwend.sock", None),
        ("127.0.0.1:50051", "loopback"),
        ("localhost:50051", "loopback"),
        ("[::1]:50051", "loopback"),
        ("0.0.0.0:50051", "private"),
        ("board.local:50051", "private"),
    ],
)
def test_the_network_is_open_as_far_as_the_daemon_listens(listen: str, network: str | None) -> None:
    assert network_of(Config(package=Path("p"), listen=listen)) == network


@pytest.mark.parametrize(
    ("endpoint", "network"),
    [
        (None, None),
        ("http://localhost:4317", "loopback"),
        ("https://[::1]:4317", "loopback"),
        ("https://collector.example.com:4317", "private"),
    ],
)
def test_the_network_is_open_to_the_collector(endpoint: str | None, network: str | None) -> None:
    """Where the daemon itself listens at a socket."""
    assert network_of(Config(package=Path("p"), otel=OtelSettings(endpoint=endpoint))) == network


class Systemd:
    """Stands for systemd's programs: notes the commands, and fails those that it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.commands: list[str] = []
        self._fails = fails

    def run(self, command: Sequence[str]) -> str:
        self.commands.append(" ".join(command))
        if self._fails and self._fails in self.commands[-1]:
            raise DeployError(f"`{self.commands[-1]}` failed")
        return "ActiveState=active\nStatusText=a=b\n"


def test_this_machine_is_told_of_new_units(tmp_path: Path) -> None:
    """Users and folders by our two files alone, then the units, then the start."""
    systemd = Systemd()
    manager = Manager(Target(), systemd.run, booted=tmp_path)
    manager.require_running()
    manager.prepare()
    manager.enable()
    manager.start()
    assert systemd.commands == [
        "systemd-sysusers /etc/sysusers.d/edgeqwen.conf",
        "systemd-tmpfiles --create /etc/tmpfiles.d/edgeqwen.conf",
        "systemctl daemon-reload",
        "systemctl enable --quiet edgeqwend.service",
        "systemctl restart edgeqwend.service",
    ]
    assert manager.show(["ActiveState"]) == {"ActiveState": "active", "StatusText": "a=b"}


def test_of_an_image_nothing_runs(tmp_path: Path) -> None:
    """systemctl only enables and disables there."""
    systemd = Systemd()
    manager = Manager(Target(tmp_path), systemd.run)
    manager.require_running()
    manager.enable()
    manager.disable()
    manager.forget()
    assert systemd.commands == [
        f"systemctl --root={tmp_path} enable --quiet edgeqwend.service",
        f"systemctl --root={tmp_path} disable --quiet edgeqwend.service",
    ]


def test_without_systemd_or_rights_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="systemd does not run this machine: prepare an image's file system"):
        Manager(Target(), Systemd().run, booted=tmp_path / "none").require_running()
    with pytest.raises(DeployError, match="run it with sudo"):
        require_root(1000)
    Manager(Target(), Systemd("reset-failed").run, booted=tmp_path).forget()  # a unit that is not loaded has not failed


def test_an_image_cannot_be_started_and_must_have_the_daemon(image: Path) -> None:
    """One line, exit status 1, and nothing is placed."""
    before = tree(image)
    assert install(image, "--dry-run", "--now") == (1, "edgeqwen: an image cannot be started: leave --now out\n")
    status, output = call("install", "--root", str(image), "--bin-dir", "/usr/bin", "--dry-run")
    assert (status, output.count("\n")) == (1, 1)
    assert "there is no edgeqwend in" in output
    (image / "home/pi/bin").mkdir(parents=True)
    (image / "home/pi/bin/edgeqwend").touch()
    status, output = call("install", "--root", str(image), "--bin-dir", "/home/pi/bin", "--dry-run")
    assert "the service cannot see /home/pi/bin (ProtectHome)" in output
    (image / "home/pi/bin/edgeqwend").unlink()
    assert tree(image) == before


SHOWN = {
    "LoadState": "loaded",
    "UnitFileState": "enabled",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "ExecMainCode": "0",
    "ExecMainStatus": "0",
    "NRestarts": "0",
    "StatusText": "serving tiny",
    "MemoryCurrent": "104857600",
    "MemoryMax": "209715200",
    "MemoryHigh": "infinity",
}


@pytest.mark.parametrize(
    ("shown", "state", "last_exit", "advice"),
    [
        ({}, "active", "", ""),
        ({"LoadState": "not-found"}, "not installed", "", "edgeqwen service install"),
        (
            {"ActiveState": "failed", "Result": "exit-code", "ExecMainCode": "1", "ExecMainStatus": "4"},
            "failed",
            "exit status 4: the package cannot be used",
            "--check-config",
        ),
        (
            {"ActiveState": "activating", "SubState": "auto-restart", "Result": "watchdog", "NRestarts": "7"},
            "waiting for a restart",
            "the watchdog ended it: the engine made no step",
            "edgeqwen service logs",
        ),
        (
            {"ActiveState": "activating", "SubState": "auto-restart", "Result": "oom-kill"},
            "waiting for a restart",
            "the kernel ended it: memory was short",
            "edgeqwen service logs",
        ),
        ({"Result": "signal", "ExecMainCode": "2", "ExecMainStatus": "9"}, "active", "signal 9 ended it", ""),
    ],
)
def test_status_says_it_in_words(shown: dict[str, str], state: str, last_exit: str, advice: str) -> None:
    """What systemd shows, for people: why it ended, how often, and what to do."""
    status = read_status(SHOWN | shown)
    assert (status.state, status.last_exit) == (state, last_exit)
    assert advice in status.advice
    assert (status.memory_bytes, status.memory_max_bytes, status.memory_high_bytes) == (104857600, 209715200, None)
    json.dumps(status.as_json())
