"""The committed stubs are those that the .proto files give, and pyproject.toml asks for what they need."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
STUBS = REPO / "protos" / "edgeqwen" / "v1"


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh stubs, made in a process of their own: protoc's Python plugin leaves state behind."""
    out = tmp_path_factory.mktemp("stubs")
    flags = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    protos = sorted(str(path.relative_to(STUBS.parents[1])) for path in STUBS.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *flags, *protos]
    subprocess.run(command, cwd=STUBS.parents[1], check=True)
    return out / "edgeqwen" / "v1"


def test_stubs_are_current(regenerated: Path) -> None:
    """Same files, same bytes; if not, `make stubs` writes them."""
    committed = {path.name: path.read_text("utf-8") for path in STUBS.glob("*_pb2*.py*")}
    fresh = {path.name: path.read_text("utf-8") for path in regenerated.iterdir()}
    assert sorted(committed) == sorted(fresh)
    changed = [name for name in fresh if fresh[name] != committed[name]]
    assert changed == [], "run `make stubs`"


def test_dependencies_meet_what_the_stubs_check() -> None:
    """Stubs refuse to import below the versions that made them, so those are the declared lower bounds."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = dict(re.findall(r"([\w-]+)>=([\d.]+)", " ".join(project["dependencies"])))
    [protobuf] = {_only(r"Protobuf Python Version: ([\d.]+)", path) for path in STUBS.glob("*_pb2.py")}
    [grpcio] = {_only(r"GRPC_GENERATED_VERSION = '([\d.]+)'", path) for path in STUBS.glob("*_pb2_grpc.py")}
    assert (bounds["protobuf"], bounds["grpcio"]) == (protobuf, grpcio)


def _only(pattern: str, path: Path) -> str:
    [match] = re.findall(pattern, path.read_text("utf-8"))
    return str(match)
