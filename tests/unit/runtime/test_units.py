"""The units as systemd itself judges them: without a complaint, and little exposed, with every drop-in."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.deploy.apply import apply
from runtime.deploy.plan import DROP_INS, DropIns, placed_paths, plan, units_folder
from runtime.deploy.target import Target

HOST_UNITS = Path("/usr/lib/systemd/system")
MAX_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or not HOST_UNITS.is_dir(),
    reason="needs systemd-analyze: apt-get install systemd",
)

PROVIDERS = (None, *sorted(path.stem.removeprefix("provider-") for path in units_folder().glob("drop-ins/provider-*")))
NETWORKS = (None, *sorted(path.stem.removeprefix("network-") for path in units_folder().glob("drop-ins/network-*")))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the units that ours stands on, and the programs that it starts."""
    root = tmp_path_factory.mktemp("root")
    if HOST_UNITS.is_dir():
        shutil.copytree(HOST_UNITS, root / "usr/lib/systemd/system", symlinks=True)
    for program in ("bin/kill", "opt/edgeqwen/bin/edgeqwend", "opt/edgeqwen/bin/edgeqwen"):
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).touch(mode=0o755)
    return root


def analyze(verb: str, root: Path, *flags: str) -> str:
    """What systemd-analyze says, in colours or not; nothing for a unit that is fine, if the verb is verify."""
    command = ["systemd-analyze", verb, f"--root={root}", *flags, "edgeqwend.service"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"SYSTEMD_COLORS": "0"}, check=False
    )
    return done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize(("provider", "network"), [*itertools.product(PROVIDERS, NETWORKS)])
def test_every_combination_is_valid_and_little_exposed(host: Path, provider: str | None, network: str | None) -> None:
    """No warning of `verify`, and an exposure of 1.5 of 10 at most, with limits and groups too."""
    groups = ("render", "video") if provider else ()
    providers = (provider,) if provider else ()
    drop_ins = DropIns(providers, groups, network=network, memory_bytes=1 << 30)
    apply(plan(drop_ins, "/opt/edgeqwen/bin", "package: x\n"), Target(host), dry_run=False)
    assert analyze("verify", host) == ""
    said = analyze("security", host, "--offline=true", "--no-pager")
    exposure = re.search(r"Overall exposure level for edgeqwend\.service: ([\d.]+)", said)
    assert exposure, said
    assert float(exposure[1]) <= MAX_EXPOSURE, said


@needs_systemd
def test_a_store_elsewhere_can_be_written_to(host: Path) -> None:
    """Whatever its folder is called; and limits are shares of the machine's memory, as packages come and go."""
    drop_ins = DropIns(shared_memory=True, writes='/srv/100% "boards"')
    apply(plan(drop_ins, "/opt/edgeqwen/bin", "store: x\n"), Target(host), dry_run=False)
    assert analyze("verify", host) == ""
    said = (host / DROP_INS[1:] / "50-store.conf").read_text()
    assert said == '[Service]\nReadWritePaths="-/srv/100%% \\"boards\\""\n'
    assert "MemoryMax=85%" in (host / DROP_INS[1:] / "20-memory.conf").read_text()


@needs_systemd
def test_the_back_off_is_for_systemds_that_know_it(host: Path) -> None:
    """Debian 12's 252 would warn of unknown keys; from 254 on there is nothing to warn of."""
    apply(plan(DropIns(backoff=True), "/opt/edgeqwen/bin", "package: x\n"), Target(host), dry_run=False)
    said = analyze("verify", host)
    apply(plan(DropIns(), "/opt/edgeqwen/bin", "package: x\n"), Target(host), dry_run=False)
    version = Target().systemd_version
    assert version is not None
    assert ("Unknown key" in said) == (version < 254), said


def test_what_telemetry_reads_stays_in_sight() -> None:
    """Settings that would hide /proc's figures, the network's counters or who calls must not come back."""
    unit = (units_folder() / "edgeqwend.service").read_text(encoding="utf-8")
    settings = {line for line in unit.splitlines() if not line.startswith("#")}
    assert not settings & {"ProcSubset=pid", "PrivateNetwork=yes", "PrivateUsers=yes"}
    assert "RestartPreventExitStatus=2 3 4" in settings
    assert "ExecStartPre" not in unit  # one that fails is started again, whatever its exit status


def test_our_tmpfiles_only_make_folders_and_modes() -> None:
    """No line may remove anything: d makes a folder, z sets the mode of one path; both of edgeqwen's own paths."""
    lines = (units_folder() / "tmpfiles.d/edgeqwen.conf").read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if line and not line.startswith("#")]
    assert {entry[0] for entry in entries} <= {"d", "z"}
    assert all("edgeqwen" in Path(entry[1]).parts for entry in entries)
    assert all(entry[-1] == "-" for entry in entries), "an age makes systemd-tmpfiles clean"


def test_every_unit_is_placed_by_the_plan() -> None:
    """Nothing of `systemd/` is forgotten, and what is placed is what uninstall removes."""
    everything = plan(DropIns(("cuda", "qnn"), (), "private", 1, backoff=True), "/opt/edgeqwen/bin", "")
    placed = [entry.path for entry in everything if not entry.keep]
    assert sorted(placed) == sorted(placed_paths())
    assert sum(path.startswith(DROP_INS) for path in placed) == 5
    assert {path.name for path in units_folder().glob("*.service")} == {"edgeqwend.service"}
