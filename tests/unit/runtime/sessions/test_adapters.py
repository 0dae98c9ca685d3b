"""Adapter files: written, read, found, and refused where they are not for the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from unit.runtime.tiny_package import edit_build, make_package

from runtime.errors import AdapterError
from runtime.package import Package
from runtime.sessions.adapters import LORA_A, LORA_B, find_adapters, read_adapter, write_adapter

DIGEST, OTHER_DIGEST = "1f" * 32, "2f" * 32
GOLDEN = {"prompt_ids": [1], "greedy_ids": [2]}
BUILT = {"id": "a", "digest": "0", "rank": 2, "alpha": 4.0, "targets": ["o_proj"], "fidelity": None, "golden": GOLDEN}


def tensors(rank: int = 2) -> dict[str, np.ndarray]:
    """Of one site, each value another."""
    down = np.arange(8 * rank, dtype=np.float32).reshape(8, rank)
    return {f"site{LORA_A}": down, f"site{LORA_B}": -down.T}


def package_with(tmp_path: Path, *names: str, targets: tuple[str, ...] = ("o_proj",)) -> Package:
    """A package that takes adapters and has some."""
    root = make_package(tmp_path / "p")
    adapters = dict.fromkeys(names, BUILT)
    path = root / "models/decoder/board/build.json"
    source = json.loads(path.read_text())["source"] | {"digest": DIGEST}
    edit_build(root, {"adapter_targets": targets, "adapters": adapters, "source": source})
    package = Package.open(root)
    for name in names:
        package.adapter_file(name).parent.mkdir(exist_ok=True)
        write_adapter(package.adapter_file(name), tensors(), DIGEST)
    return package


def refusal(package: Package, folder: Path | None) -> str:
    with pytest.raises(AdapterError) as error:
        find_adapters(package, folder)
    assert error.value.exit_code == 4
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_written_is_read_and_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.onnx_adapter", tmp_path / "two.onnx_adapter"
    write_adapter(one, tensors(), DIGEST)
    write_adapter(two, dict(reversed(tensors().items())), DIGEST)
    assert one.read_bytes() == two.read_bytes()
    got = read_adapter("one", one)
    assert {name: tensor.numpy().tolist() for name, tensor in got.tensors.items()} == {
        name: tensor.tolist() for name, tensor in tensors().items()
    }


def test_the_packages_and_the_folders_are_offered_by_name(tmp_path: Path) -> None:
    package = package_with(tmp_path, "tone")
    folder = tmp_path / "beside"
    folder.mkdir()
    assert [adapter.name for adapter in find_adapters(package, folder)] == ["tone"]
    write_adapter(folder / "pumps.onnx_adapter", tensors(), DIGEST)
    (folder / "notes.txt").write_text("not an adapter")
    assert [adapter.name for adapter in find_adapters(package, folder)] == ["pumps", "tone"]


def test_each_that_cannot_be_used_is_refused_with_its_name(tmp_path: Path) -> None:
    """In one line that says what to do."""
    package = package_with(tmp_path, "tone")
    folder = tmp_path / "beside"
    assert "does not exist" in refusal(package, folder)
    folder.mkdir()
    path = folder / "tone.onnx_adapter"
    write_adapter(path, tensors(), DIGEST)
    assert f"has an adapter 'tone' of its own: rename {path}" in refusal(package, folder)
    path = path.rename(folder / "Two Words.onnx_adapter")
    assert "has a name that requests cannot have" in refusal(package, folder)
    path = path.rename(folder / "pumps.onnx_adapter")
    write_adapter(path, tensors(), OTHER_DIGEST)
    assert f"{path} was made for another model than this one of tiny" in refusal(package, folder)
    for content in (b"", b"no adapter", path.read_bytes()[:100]):
        path.write_bytes(content)
        assert f"{path} cannot be read: it is damaged" in refusal(package, folder)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ({f"site{LORA_A}": np.ones((8, 2), np.float32)}, "is not whole"),
        ({f"site{LORA_A}": np.ones((8, 2), np.float32), f"s{LORA_B}": np.ones((2, 8), np.float32)}, "is not whole"),
        ({f"site{LORA_A}": np.ones((8, 2), np.float32), f"site{LORA_B}": np.ones((3, 8), np.float32)}, "not a pair"),
        ({f"site{LORA_A}": np.ones((8, 2), np.float64), f"site{LORA_B}": np.ones((2, 8), np.float32)}, "not a pair"),
        ({f"site{LORA_A}": np.ones((8, 0), np.float32), f"site{LORA_B}": np.ones((0, 8), np.float32)}, "not a pair"),
    ],
)
def test_what_is_no_pair_of_matrices_is_refused(tmp_path: Path, held: dict[str, np.ndarray], reason: str) -> None:
    write_adapter(tmp_path / "a.onnx_adapter", held, DIGEST)
    with pytest.raises(AdapterError, match=reason):
        read_adapter("a", tmp_path / "a.onnx_adapter")


def test_a_file_of_another_tool_is_refused(tmp_path: Path) -> None:
    """Its tensors may be named or scaled otherwise."""
    file = ort.AdapterFormat()
    file.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(tensor) for name, tensor in tensors().items()})
    file.export_adapter(str(tmp_path / "a.onnx_adapter"))
    with pytest.raises(AdapterError, match="was not made by"):
        read_adapter("a", tmp_path / "a.onnx_adapter")


def test_a_package_without_room_for_adapters_says_how_to_build_it(tmp_path: Path) -> None:
    package = package_with(tmp_path, targets=())
    folder = tmp_path / "beside"
    folder.mkdir()
    assert find_adapters(package, folder) == []
    write_adapter(folder / "pumps.onnx_adapter", tensors(), DIGEST)
    assert "takes no adapters: build it with --adapter or --adapter-targets (found pumps)" in refusal(package, folder)
