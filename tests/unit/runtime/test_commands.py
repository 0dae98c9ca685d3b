"""`edgeqwen bench` as far as it goes without a model (see tests/integration), and what all commands share."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from unit.runtime.tiny_package import edit_build, make_package

from edgeqwen.cli import main
from runtime.board.cpu import read_cpu
from runtime.board.localsettings import LocalSettingsFile
from runtime.package import Package
from runtime.profile import find_profile


def run(*arguments: str, target: str = "unix:/nowhere/s", **environment: str) -> Result:
    return CliRunner().invoke(
        main, ["--target", target, "bench", *arguments], env={"EDGEQWEN_CONFIG": None, **environment}
    )


@pytest.mark.parametrize(("command", "flag"), [("bench", "--autotune"), ("detect", "--profile")])
def test_it_is_a_command_of_edgeqwen_and_loads_no_runtime_for_its_help(command: str, flag: str) -> None:
    """Where only the client is installed, help works too."""
    assert command in CliRunner().invoke(main, ["--help"]).stdout
    code = (
        f"import sys\nfrom edgeqwen.cli import main\nmain(['{command}', '--help'], standalone_mode=False)\n"
        "print(*sorted({'numpy', 'onnxruntime', 'pydantic', 'yaml'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert flag in done.stdout
    assert done.stderr == "\n"


@pytest.mark.parametrize("arguments", [["bench", "x"], ["detect"]])
def test_without_the_runtime_it_says_what_to_install(arguments: list[str]) -> None:
    """One line, exit status 1."""
    code = f"import sys\nsys.modules['pydantic'] = None\nfrom edgeqwen.cli import main\nmain({arguments})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install 'edgeqwen[runtime]'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 3, "package: is required"),
        (["/nowhere"], 4, "there is no package at /nowhere"),
        (["x", "--streams", "0"], 2, "whole numbers above 0"),
        (["x", "--prompt", "many"], 2, "whole numbers above 0"),
        (["x", "--threads", "0"], 2, "--threads"),
        (["x", "--config", "/nowhere.yaml"], 3, "/nowhere.yaml: cannot be read"),
    ],
)
def test_what_cannot_work_is_said_in_a_line(arguments: list[str], status: int, words: str) -> None:
    """The exit statuses are those of edgeqwend."""
    done = run(*arguments)
    assert done.exit_code == status
    assert words in done.stderr


def test_cases_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    """Before a model is loaded: too long for the context, and too short for all streams to run at once."""
    package = make_package(tmp_path / "p")  # 8 tokens of context
    done = run(str(package), "--prompt", "6", "--tokens", "4", "--streams", "1,4", "--state-dir", str(tmp_path))
    assert done.exit_code == 3
    assert "prompt 6, 1 stream and 4 more are 10, of at most 8" in done.stderr
    assert "tokens: must be > 4 for prompt 6, 4 streams (got 4)" in done.stderr


def test_the_package_is_the_daemons(tmp_path: Path) -> None:
    """From its file or its environment, as `edgeqwend` takes it; an argument counts more."""
    config = tmp_path / "edgeqwend.yaml"
    config.write_text("package: /of/the/file\n")
    assert "/of/the/file" in run("--config", str(config)).stderr
    assert "/of/the/file" in run(EDGEQWEN_CONFIG=str(config)).stderr
    assert "/of/the/environment" in run("--config", str(config), EDGEQWEN_PACKAGE="/of/the/environment").stderr
    assert "/of/the/argument" in run("/of/the/argument", "--config", str(config)).stderr


def test_a_daemon_that_runs_is_mentioned() -> None:
    """It would share the cores."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(f"{folder}/s")
        daemon.listen()
        assert "a daemon runs at" in run("/nowhere", target=f"unix:{folder}/s").stderr
        with socket.create_server(("127.0.0.1", 0)) as tcp:
            assert "a daemon runs at" in run("/nowhere", target=f"127.0.0.1:{tcp.getsockname()[1]}").stderr
    assert "a daemon runs at" not in run("/nowhere", target=f"unix:{folder}/s").stderr


def test_local_settings_that_cannot_be_used_are_mentioned(tmp_path: Path) -> None:
    """And are no obstacle: what follows is the next fault."""
    package = make_package(tmp_path / "p")
    arguments = [str(package), "--state-dir", str(tmp_path), "--tokens", "2", "--streams", "1", "--prompt", "99"]
    assert "ignored" not in run(*arguments).stderr
    file = LocalSettingsFile(tmp_path, Package.open(package).build_digest, read_cpu())
    file.require_writable()
    file.path.write_text("{")
    assert f"local settings ignored: {file.path} cannot be used" in run(*arguments).stderr


def test_a_backend_of_one_row_has_nothing_to_share_or_to_choose(tmp_path: Path) -> None:
    """Several streams would wait for each other, and threads are not what an NPU runs on."""
    package = make_package(tmp_path / "p")
    edit_build(package, {"profile": find_profile("intel-core-ultra-npu").model_dump()})
    arguments = [str(package), "--state-dir", str(tmp_path), "--prompt", "2", "--tokens", "4"]
    done = run(*arguments, "--streams", "1,2")
    assert done.exit_code == 3
    assert "streams: must be 1, OpenVINO (NPU) runs one request at a time" in done.stderr
    done = run(*arguments, "--autotune")
    assert done.exit_code == 3
    assert "autotune: has nothing to choose, it is for CPUs and this package is for OpenVINO (NPU)" in done.stderr
