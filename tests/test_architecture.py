"""The layers, doors and sizes hold in this tree, and the checker sees it when they do not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from architecture import size_violations, unused_doors, violations
from architecture_rules import LAYERS, PURE

REPO = Path(__file__).parents[1]
PACKAGES = {
    "runtime": REPO / "runtime",
    "toolchain": REPO / "toolchain",
    "edgeqwen": REPO / "protos" / "edgeqwen",
}
STUBS = {PACKAGES["edgeqwen"] / name for name in ("v1", "kserve")}
STANDARD_LIBRARY = frozenset(sys.stdlib_module_names)


def _module_sources() -> dict[str, str]:
    """Our modules by dotted name; the generated stubs in edgeqwen/v1 and edgeqwen/kserve are not ours."""
    return {
        _dotted(package, path.relative_to(folder)): path.read_text("utf-8")
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*.py")
        if path.parent not in STUBS
    }


def _dotted(package: str, path: Path) -> str:
    """`sensing/power.py` in runtime is `runtime.sensing.power`; an `__init__.py` is its package."""
    parts = path.with_suffix("").parts
    return ".".join((package, *parts[:-1], *([] if path.stem == "__init__" else parts[-1:])))


def _python_files() -> list[Path]:
    folders = [*PACKAGES.values(), *(REPO / name for name in ("tests", "scripts", "benchmarks"))]
    return sorted(path for folder in folders for path in folder.rglob("*.py") if path.parent not in STUBS)


def check(module: str, source: str) -> list[str]:
    return violations({module: source}, STANDARD_LIBRARY)


def test_every_import_follows_the_rules() -> None:
    """Layers, doors and purity hold in all three packages, for imports inside functions too."""
    assert violations(_module_sources(), STANDARD_LIBRARY) == []


def test_files_and_functions_can_be_read_at_once() -> None:
    """No file has more than 500 lines, no function more than 80, tests included."""
    found = [
        v for path in _python_files() for v in size_violations(str(path.relative_to(REPO)), path.read_text("utf-8"))
    ]
    assert found == []


def test_rules_outlive_nothing() -> None:
    """Every module that a rule names exists, and every door is gone through."""
    sources = _module_sources()
    placed = {f"{package}.{name}" for package, rows in LAYERS.items() for row in rows for name in row.split()}
    assert sorted((placed | PURE | set(LAYERS)) - set(sources)) == []
    assert unused_doors(sources) == []


BAD = {
    "upwards": ("runtime.engine.kvcache", "from .scheduler import Step"),
    "sideways": ("runtime.engine.tokenizer", "from .sampler import Sampler"),
    "upwards between packages": ("runtime.engine.scheduler", "from ..models.model import Model"),
    "upwards by module": ("runtime.engine.sequence", "from . import engine"),
    "inside a function": ("runtime.engine.kvcache", "def f():\n    from .engine import Engine"),
    "only for types": ("runtime.engine.kvcache", "if TYPE_CHECKING:\n    from .engine import Engine"),
    "absolute in its own package": ("runtime.engine.engine", "from runtime.errors import Fault"),
    "runtime to toolchain": ("runtime.package", "import toolchain.recipes.recipe"),
    "client to runtime": ("edgeqwen.client", "from runtime.errors import EdgeQwenError"),
    "client to toolchain": ("edgeqwen.cli", "import toolchain"),
    "toolchain to the session": ("toolchain.compile", "from runtime.sessions.session import Session"),
    "engine to protobuf": ("runtime.engine.engine", "from edgeqwen.v1 import generation_pb2"),
    "heavy library elsewhere": ("runtime.engine.engine", "import onnxruntime as ort"),
    "part of a heavy library": ("runtime.engine.engine", "from grpc.aio import server"),
    "torch on the device": ("runtime.sessions.session", "import torch"),
    "olive elsewhere": ("toolchain.evaluation.packaged", "from olive.workflows import run"),
    "unknown library": ("runtime.daemon", "import requests"),
    "our folder that looks like a library": ("runtime.daemon", "from systemd import daemon"),
    "unknown module": ("runtime.helpers", ""),
    "unknown package": ("runtime.helpers.strings", ""),
    "import of an unknown module": ("runtime.engine.engine", "from .helpers import f"),
    "hidden import": ("toolchain.cli", "importlib.import_module('olive')"),
    "other hidden import": ("toolchain.cli", "__import__('olive')"),
    "clock in a pure module": ("runtime.engine.scheduler", "import time"),
    "thread in a pure module": ("runtime.engine.scheduler", "from threading import Lock"),
    "path in a pure module": ("runtime.errors", "from pathlib import Path"),
    "file in a pure module": ("runtime.engine.sampler", "open('x')"),
    "pure through another": ("runtime.engine.scheduler", "from ..package import Package"),
    "code in __init__": ("runtime", '"""Docstring."""\nfrom .errors import Fault'),
}


@pytest.mark.parametrize(("module", "source"), BAD.values(), ids=BAD)
def test_checker_sees(module: str, source: str) -> None:
    """Each of these breaks exactly one rule, and is reported once, with the module's name."""
    [found] = check(module, source)
    assert found.startswith(module)


def test_checker_accepts_what_the_rules_allow() -> None:
    """No false alarm for downward, pure, standard-library and door imports."""
    assert check("runtime.engine.scheduler", "from collections import deque\nfrom .kvcache import KVCache") == []
    assert check("runtime.engine.sampler", "import numpy as np\nfrom .sequence import SamplingParams") == []
    assert check("runtime.engine.engine", "import threading, time\nfrom ..errors import Fault") == []
    assert check("runtime.api.service", "import grpc\nfrom edgeqwen.v1 import generation_pb2") == []
    source = "from runtime.sessions.session import Session\nfrom ..recipes.recipe import Recipe"
    assert check("toolchain.evaluation.packaged", source) == []
    assert check("edgeqwen.client", "from .v1 import generation_pb2") == []
    assert check("runtime", '"""Docstring."""') == []


def test_checker_sees_sizes() -> None:
    """One line above a limit is reported, the limit itself is not."""
    assert size_violations("a.py", "x = 1\n" * 500) == []
    assert size_violations("a.py", "x = 1\n" * 501) == ["a.py: 501 lines, at most 500"]
    function = "async def f():\n" + "    pass\n" * 80
    assert size_violations("a.py", function) == ["a.py:1: f has 81 lines, at most 80"]
