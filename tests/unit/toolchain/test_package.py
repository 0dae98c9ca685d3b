"""Packages are published whole, over whatever was there."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from unit.runtime.tiny_package import make_package

from runtime.errors import BuildError
from runtime.package import Package
from runtime.profile import find_profile
from toolchain.package import VariantInput, publish, scratch_folder, write_package
from toolchain.variant import VariantParts


def test_a_package_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    """At no time is there none: the old one is where the new one was made."""
    new, target = tmp_path / "new", tmp_path / "target"
    for folder in (new, target):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    publish(new, target)
    assert (target / "name").read_text() == "new"
    assert (new / "name").read_text() == "target"


def test_what_cannot_be_replaced_is_left_alone(tmp_path: Path) -> None:
    """The error says what to do."""
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(BuildError, match=r"cannot be replaced .*remove it"):
        publish(tmp_path / "nowhere", target)
    assert target.is_dir()


def test_scratch_of_killed_builds_goes_and_that_of_running_ones_stays(tmp_path: Path) -> None:
    """A lock tells them apart; the folder of this build goes at its end, also after an error."""
    killed, running = tmp_path / ".name-killed", tmp_path / ".name-running"
    for folder in (killed, running):
        folder.mkdir()
        (folder / "half").write_text("written")
    handle = os.open(running, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        stopped_build(tmp_path, running.name)
    finally:
        os.close(handle)
    assert [path.name for path in tmp_path.iterdir()] == [running.name]


def stopped_build(folder: Path, other: str) -> None:
    """Fails in the middle."""
    with suppress(RuntimeError), scratch_folder(folder, ".name-") as scratch:
        assert {path.name for path in folder.iterdir()} == {other, scratch.name}
        raise RuntimeError("stopped")


def test_a_package_without_a_variant_for_onnx_runtime_has_the_same_layout(tmp_path: Path) -> None:
    """Every file is in its place and listed with its digest, and ONNX Runtime is told of no variant."""
    checkpoint, compiled = tmp_path / "checkpoint", tmp_path / "compiled"
    for folder, files in ((checkpoint, ("tokenizer.json", "config.json", "model.safetensors")), (compiled, ())):
        folder.mkdir()
        for name in files:
            (folder / name).write_text("{}")
    stock = tuple(compiled / f"openvino_model{suffix}" for suffix in (".xml", ".bin"))
    for path in stock:
        path.write_text(path.name)
    build = Package.open(make_package(tmp_path / "other", "board")).build
    build = build.model_copy(update={"profile": find_profile("openvino-x86_64"), "version": "1.2.0"})
    parts = VariantParts(
        stock=stock, ours={}, recipe={}, weights_bytes=5, contrib_ops=[], fidelity=None, golden=build.golden
    )
    root = write_package(tmp_path / "out", checkpoint, [VariantInput(parts, build)], {})
    package = Package.open(root)
    assert package.serving_graph.read_text() == "openvino_model.xml"
    assert sorted(package.build.files) == [
        "configs/config.json",
        "configs/presets.json",
        "configs/tokenizer.json",
        "models/decoder/board/openvino_model.bin",
        "models/decoder/board/openvino_model.xml",
    ]
    assert json.loads((root / "models/decoder/metadata.json").read_text())["variants"] == {}
    manifest = json.loads((root / "manifest.json").read_text())
    assert (manifest["components"], manifest["package_version"]) == (["decoder"], package.build.version)
