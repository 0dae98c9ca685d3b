"""What must be the same wherever packages of a matrix are built."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..variant import OPENVINO_TOOLS, OPTIMUM_TOOLS, QNN_TOOLS

OUR_CODE = "edgeqwen's code"
_TRANSPORT = ("cloudpickle", "dask", "distributed", "msgpack")
_FOLDERS = ("toolchain", "runtime")
_MISSING = "missing"


def tool_versions() -> dict[str, str]:
    """Of all that decides what comes out of a build, our own code included."""
    tools = dict.fromkeys((*OPTIMUM_TOOLS, *QNN_TOOLS, *OPENVINO_TOOLS))
    return {OUR_CODE: _code_digest()[:12]} | {name: _version(name) for name in tools}


def all_versions() -> dict[str, str]:
    """Also of what carries jobs and results between processes."""
    python = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    return tool_versions() | python | {name: _version(name) for name in _TRANSPORT}


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """What is different there, in words; empty if nothing is."""
    return ", ".join(_differences(here, there))


def _differences(here: Mapping[str, str], there: Mapping[str, str]) -> Iterator[str]:
    for name, wanted in here.items():
        if (found := there.get(name, _MISSING)) != wanted:
            yield f"{name} is {found} (here {wanted})"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _MISSING


def _code_digest() -> str:
    """SHA-256 over the sources and data of the packages that build: a version does not tell two checkouts apart."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for folder in _FOLDERS for path in (root / folder).rglob("*")):
        if path.suffix in (".py", ".yaml", ".txt", ".jsonl") and path.is_file():
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()
