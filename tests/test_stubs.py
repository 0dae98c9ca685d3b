"""The committed stubs are those that the .proto files give, and pyproject.toml asks for what they need."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PROTOS = REPO / "protos"
STUBS = [PROTOS / "edgeqwen" / name for name in ("kserve", "v1")]


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh stubs, made in a process of their own: protoc's Python plugin leaves state behind."""
    out = tmp_path_factory.mktemp("stubs")
    flags = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    protos = sorted(str(path.relative_to(PROTOS)) for folder in STUBS for path in folder.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *flags, *protos]
    subprocess.run(command, cwd=PROTOS, check=True)
    return out / "edgeqwen"


def test_stubs_are_current(regenerated: Path) -> None:
    """Same files, same bytes; if not, `make stubs` writes them."""
    committed = {
        f"{folder.name}/{path.name}": path.read_text("utf-8") for folder in STUBS for path in folder.glob("*_pb2*.py*")
    }
    fresh = {f"{path.parent.name}/{path.name}": path.read_text("utf-8") for path in regenerated.glob("*/*")}
    own_pool = ("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()")  # as `make stubs` has it
    fresh["kserve/inference_pb2.py"] = fresh["kserve/inference_pb2.py"].replace(*own_pool)
    assert sorted(committed) == sorted(fresh)
    changed = [name for name in fresh if fresh[name] != committed[name]]
    assert changed == [], "run `make stubs`"


def test_dependencies_meet_what_the_stubs_check() -> None:
    """Stubs refuse to import below the versions that made them, so those are the declared lower bounds."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = dict(re.findall(r"([\w-]+)>=([\d.]+)", " ".join(project["dependencies"])))
    [protobuf] = _versions(r"Protobuf Python Version: ([\d.]+)", "*_pb2.py")
    [grpcio] = _versions(r"GRPC_GENERATED_VERSION = '([\d.]+)'", "*_pb2_grpc.py")
    assert (bounds["protobuf"], bounds["grpcio"]) == (protobuf, grpcio)


def _versions(pattern: str, files: str) -> set[str]:
    return {_only(pattern, path) for folder in STUBS for path in folder.glob(files)}


def _only(pattern: str, path: Path) -> str:
    [match] = re.findall(pattern, path.read_text("utf-8"))
    return str(match)
