"""What `edgeqwend --check-config` finds."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from unit.runtime.tiny_package import edit_build, make_package

from runtime.configuration.config import Config
from runtime.daemon import main
from runtime.errors import ConfigError, Fault
from runtime.lifecycle.check import check
from runtime.package import Package
from runtime.store import state as steps
from runtime.store.recovery import describe
from runtime.store.state import Cause
from runtime.store.store import Store


def config(tmp_path: Path, **settings: object) -> Config:
    defaults = {"package": tmp_path / "p.ortpackage", "listen": f"unix:{tmp_path}/s", "state_dir": tmp_path}
    return Config(**(defaults | settings))  # type: ignore[arg-type]


def test_what_can_start_is_described(tmp_path: Path) -> None:
    """What would run, where, with how much memory; no fault, no warning."""
    make_package(tmp_path / "p.ortpackage")
    checked = check(config(tmp_path, slots=3))
    assert (checked.faults, checked.warnings, checked.exit_code) == ((), (), 0)
    assert checked.runs["model"] == "tiny"
    assert checked.runs["slots"] == 3
    assert checked.runs["memory_bytes"] > 150_000_000


def test_of_a_store_the_active_package_is_looked_at(tmp_path: Path) -> None:
    """Without one it says what to do."""
    store = Store(tmp_path / "store")
    settings = config(tmp_path, package=None, store=tmp_path / "store")
    checked = check(settings)
    assert (checked.exit_code, checked.lines) == (
        4,
        [f"no package is active in {tmp_path}/store: edgeqwen install REF --activate"],
    )
    package = Package.open(make_package(store.packages / "tiny.ortpackage"))
    its = describe(package, "tiny.ortpackage", "", 1.0)
    cause = Cause(1.0, "root")
    store.change(lambda state: steps.activate(steps.install(state, its, cause), its.folder, cause))
    checked = check(settings)
    assert (checked.faults, checked.runs["package"]) == ((), str(store.packages / "tiny.ortpackage"))


def test_every_fault_is_found_at_once(tmp_path: Path) -> None:
    """Address, further checks, machine and settings; the first decides the exit status."""

    def certificate(_: Config) -> None:
        raise ConfigError([Fault("tls.cert", "cannot be read")])

    make_package(tmp_path / "p.ortpackage")
    edit_build(tmp_path / "p.ortpackage", {"needs": {**NEEDS, "arch": "riscv64"}})
    bad = config(tmp_path, listen=f"unix:{tmp_path}/none/s", device="CPU")
    checked = check(bad, extras=(certificate,))
    assert checked.exit_code == 3
    address, tls, machine, device = checked.lines
    assert "does not exist: create it" in address
    assert tls == "tls.cert: cannot be read"
    assert "is for riscv64" in machine
    assert device.startswith("device: is for packages of OpenVINO")


NEEDS = {
    "provider": "CPUExecutionProvider",
    "arch": "x86_64",
    "isa": [],
    "contrib_ops": [],
    "onnxruntime_min": "1.32",
}


def test_a_package_that_is_not_there_hides_the_rest(tmp_path: Path) -> None:
    """Its fault stands beside that of the address."""
    checked = check(config(tmp_path, listen=f"unix:{tmp_path}/none/s"))
    assert [type(fault).__name__ for fault in checked.faults] == ["ConfigError", "PackageError"]


def test_more_memory_than_there_is_is_a_fault(tmp_path: Path) -> None:
    """With the sum, and what to lower."""
    make_package(tmp_path / "p.ortpackage")
    (tmp_path / "root/proc").mkdir(parents=True)
    (tmp_path / "root/proc/meminfo").write_text("MemTotal:  102400 kB\n")
    [line] = check(config(tmp_path), root=tmp_path / "root").lines
    assert line.startswith("memory: all rows full take 150.0 MB, and this machine has 104.9 MB: lower slots")


def test_every_package_is_looked_at(tmp_path: Path) -> None:
    """Those beside the default are named and count in memory; one that is not there is a fault of its own."""
    make_package(tmp_path / "p.ortpackage")
    make_package(tmp_path / "q.ortpackage")
    alone, both = check(config(tmp_path)), check(config(tmp_path, more_packages=[tmp_path / "q.ortpackage"]))
    assert both.runs["more_models"] == "tiny"
    assert int(alone.runs["memory_bytes"]) < int(both.runs["memory_bytes"]) < 2 * int(alone.runs["memory_bytes"])
    [line] = check(config(tmp_path, more_packages=[tmp_path / "none"])).lines
    assert line.startswith(f"there is no package at {tmp_path}/none")


def test_a_daemon_that_runs_is_no_fault(tmp_path: Path) -> None:
    """Its own configuration may be what is checked."""
    make_package(tmp_path / "p.ortpackage")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        checked = check(config(tmp_path))
    assert checked.exit_code == 0
    assert "a second daemon could not start there" in checked.warnings[0]


def test_the_command_prints_all_and_exits_as_the_daemon_would(tmp_path: Path) -> None:
    """On stdout what would run, on stderr a line for each fault; with --json one object."""
    make_package(tmp_path / "p.ortpackage")
    flags = ["--package", f"{tmp_path}/p.ortpackage", "--state-dir", str(tmp_path), "--check-config"]
    good = CliRunner().invoke(main, [*flags, "--listen", f"unix:{tmp_path}/s"])
    assert (good.exit_code, good.stderr) == (0, "")
    assert "model            tiny\n" in good.stdout
    bad = CliRunner().invoke(main, [*flags, "--listen", f"unix:{tmp_path}/none/s", "--device", "CPU"])
    assert (bad.exit_code, bad.stderr.count("\n")) == (3, 2)
    told = CliRunner().invoke(main, [*flags, "--slots", "0", "--queue-limit", "0", "--json"])
    assert told.exit_code == 3
    assert json.loads(told.stdout)["faults"] == [
        "configuration: queue_limit (from flag): must be >= 1 (got 0)",
        "configuration: slots (from flag): must be >= 1 (got 0)",
    ]


def test_a_check_loads_neither_model_nor_server() -> None:
    """So it is done in half a second on a board."""
    code = "import sys, runtime.lifecycle.check; print(*sorted({'grpc', 'numpy', 'onnxruntime'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "\n"
