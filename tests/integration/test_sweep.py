"""A sweep of a tiny checkpoint, as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_tiny

pytestmark = pytest.mark.slow

KINDS = ("int4 rotated", "int8", "int8 block 128")


def sweep(checkpoint: Path, cache: Path, out: Path, *flags: str) -> dict[str, object]:
    command = [sys.executable, "-m", "toolchain.cli", "sweep", str(checkpoint), "--profile", "generic-x86_64"]
    command += ["--cache", str(cache), "-o", str(out), "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_recipes_are_compared_and_kept(tmp_path: Path) -> None:
    """Each has its figures; those that are the same recipe for this model run once; a second sweep compiles nothing;
    with no time, none is begun but what is known of the others is said."""
    checkpoint, cache = make_tiny(tmp_path / "tiny", "qwen2"), tmp_path / "cache"
    flags = [word for kind in KINDS for word in ("--recipe", kind)]
    found = sweep(checkpoint, cache, tmp_path / "first", *flags)
    results = found["results"]
    assert isinstance(results, list)
    names = {row["name"] for row in results}
    assert names == {"int4 rotated", "int8"}
    assert found["left_out"] == {"int8 block 128": "for this model it is the same as int8"}
    assert found["failed"] == {}
    assert all(row["decode_speed"] > 0 and row["weights_bytes"] > 0 and row["mean_kld"] >= 0 for row in results)
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"sweep.json", "sweep.md", "sweep.png"}
    compiled = set((cache / "compiled").iterdir())
    again = sweep(checkpoint, cache, tmp_path / "second", *flags, "--max-size", "0.1MB")
    assert set((cache / "compiled").iterdir()) == compiled
    kept, left_out = again["results"], again["left_out"]
    assert isinstance(kept, list)
    assert isinstance(left_out, dict)
    assert all(row["weights_bytes"] <= 100_000 for row in kept)
    assert {row["name"] for row in kept} | left_out.keys() == names | {"int8 block 128"}
