"""The wheel is what we ship: its contents, its console scripts, and the runtime's tests run against it.

Everything here runs outside the checkout, in environments with nothing but the wheel and its dependencies, so
that no module of the checkout can stand in for one that the wheel lacks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[1]
SHIPPED = {
    "edgeqwen": REPO / "protos" / "edgeqwen",
    "runtime": REPO / "runtime",
    "runtime/device_profiles": REPO / "device_profiles",
    "runtime/systemd": REPO / "systemd",
    "toolchain": REPO / "toolchain",
}
VERSION = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]["version"]
BUILD_HOST_ONLY = ("torch", "olive", "transformers", "optimum", "onnxruntime_genai", "datasets", "onnx")


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and an empty folder in which its commands run."""

    folder: Path
    workdir: Path

    def run(self, *command: str) -> str:
        """Runs a command of this environment, which must exit with 0; returns what it printed."""
        program = str(self.folder / "bin" / command[0])
        environ = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
        done = subprocess.run(
            [program, *command[1:]],
            cwd=self.workdir,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(REPO)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [path] = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel without extras: what a program needs that only talks to the daemon."""
    return _environment(tmp_path_factory.mktemp("client"), str(wheel))


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel with its runtime extra, as on a device, and what runs its tests."""
    tools = ("pytest", "pytest-asyncio", "hypothesis", "cryptography")
    return _environment(tmp_path_factory.mktemp("device"), f"{wheel}[runtime]", *tools)


def _environment(folder: Path, *requirements: str) -> Environment:
    """Installs from outside, so that the new environment has no pip; as the Makefile does, by uv or else by pip."""
    venv, workdir = folder / "venv", folder / "work"
    workdir.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = ["--python", str(venv / "bin" / "python")]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--system-certs", *python, *requirements]
    if subprocess.run(uv, cwd=workdir, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        pip = [sys.executable, "-m", "pip", *python, "install", "--no-input", "--no-compile", *requirements]
        subprocess.run(pip, cwd=workdir, stdin=subprocess.DEVNULL, check=True)
    return Environment(venv, workdir)


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    """Sources, stubs, profiles and data files are in; tests, benchmarks, scripts and caches are not."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {
        f"{prefix}/{path.relative_to(folder).as_posix()}"
        for prefix, folder in SHIPPED.items()
        for path in _files(folder)
    }
    assert {"edgeqwen/v1/generation_pb2.py", "edgeqwen/v1/generation_pb2.pyi"} <= names
    assert any(re.fullmatch(r"runtime/device_profiles/[a-z0-9_-]+\.yaml", name) for name in names)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def test_sdist_can_be_worked_on(dist: Path) -> None:
    """The source archive has what `make test` needs, and nothing that was built here."""
    [path] = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"Makefile", "README.md", "device_profiles", "pyproject.toml", "scripts", "tests"} <= tops
    assert not tops & {".git", ".venv", "build", "dist"}


def test_client_command_needs_no_extra(client: Environment) -> None:
    """`edgeqwen` answers in an environment that has neither numpy nor onnxruntime."""
    assert VERSION in client.run("edgeqwen", "--version")
    assert "chat" in client.run("edgeqwen", "--help")
    assert "--autotune" in client.run("edgeqwen", "bench", "--help")
    assert "--dry-run" in client.run("edgeqwen", "service", "install", "--help")
    assert "eqt_" in client.run("edgeqwen", "token", "gateway")
    assert "--trust" in client.run("edgeqwen", "verify", "--help")
    assert _present(client, "numpy", "onnxruntime", "pydantic") == []


def test_daemon_command_needs_the_runtime_extra_only(device: Environment) -> None:
    """`edgeqwend` answers where no library of the build host is present."""
    assert VERSION in device.run("edgeqwend", "--version")
    assert "--autotune" in device.run("edgeqwen", "bench", "--help")
    assert "--package" in device.run("edgeqwend", "--help")
    assert _present(device, *BUILD_HOST_ONLY) == []
    assert _present(device, "model_signing") == ["model_signing"]  # and its daemon does without
    imported = "import sys, runtime.daemon, runtime.lifecycle.running; print(*sys.modules)"
    assert not {"model_signing", "cryptography"} & set(device.run("python", "-c", imported).split())


def test_compiler_command_answers_on_a_build_host() -> None:
    """`edgeqwen-compile` answers in this environment, which has the toolchain extra."""
    here = Environment(Path(sys.prefix), Path(sys.prefix))
    assert VERSION in here.run("edgeqwen-compile", "--version")
    assert "build" in here.run("edgeqwen-compile", "--help")


def test_runtime_tests_pass_against_the_wheel(device: Environment) -> None:
    """The fast unit tests of the device side pass on what was installed, without the checkout in sight. What a wheel
    or an environment lacks, the first examples of a property show."""
    shutil.copytree(REPO / "tests", device.workdir / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", device.workdir)
    where = device.run("python", "-c", "import edgeqwen, runtime; print(edgeqwen.__file__, runtime.__file__)")
    assert all(Path(file).is_relative_to(device.folder) for file in where.split())
    flags = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "--hypothesis-profile=few")
    output = device.run("pytest", *flags, "tests/unit/runtime")
    assert re.search(r"\d+ passed", output), output


def _present(environment: Environment, *libraries: str) -> list[str]:
    """Which of these an environment could import."""
    names = " ".join(libraries)
    code = f"from importlib.util import find_spec; print(*(n for n in '{names}'.split() if find_spec(n)))"
    return environment.run("python", "-c", code).split()
