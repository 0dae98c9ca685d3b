"""Packages: found, checked, and never read outside their folder."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.runtime.tiny_package import edit_build, make_package

from runtime.errors import PackageCorrupt, PackageError
from runtime.package import Package, build_json, is_version, open_variants, variant_files
from runtime.profile import find_profile


def test_a_whole_package_opens(tmp_path: Path) -> None:
    package = Package.open(make_package(tmp_path / "p"))
    package.require_this_machine()
    assert (package.build.variant, package.serving_graph.read_bytes()) == ("board", b"graph")


def test_several_variants_need_a_name(tmp_path: Path) -> None:
    root = make_package(tmp_path / "p", "a", "b")
    assert Package.open(root, "b").build.variant == "b"
    with pytest.raises(PackageError, match="several variants, name one with --variant: a, b"):
        Package.open(root)
    with pytest.raises(PackageError, match="no variant 'c'; it has a, b"):
        Package.open(root, "c")


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="there is no package at"):
        Package.open(tmp_path / "nowhere")
    with pytest.raises(PackageError, match="is not a package"):
        Package.open(tmp_path)


def test_one_changed_byte_is_found_and_named(tmp_path: Path) -> None:
    """Also when the size stays; and not looked for when the operator says so."""
    root = make_package(tmp_path / "p")
    (root / "models/decoder/board/serving.onnx").write_bytes(b"grapH")
    with pytest.raises(PackageCorrupt, match=r"serving\.onnx is corrupt"):
        Package.open(root)
    assert Package.open(root, verify=False)


def test_a_missing_a_short_and_a_linked_file_are_found_without_digests(tmp_path: Path) -> None:
    root = make_package(tmp_path / "p")
    graph = root / "models/decoder/board/serving.onnx"
    graph.write_bytes(b"gra")
    with pytest.raises(PackageCorrupt, match="has 3 bytes, not 5"):
        Package.open(root, verify=False)
    graph.unlink()
    with pytest.raises(PackageCorrupt, match="is missing"):
        Package.open(root, verify=False)
    outside = tmp_path / "outside"
    outside.write_bytes(b"graph")
    graph.symlink_to(outside)
    with pytest.raises(PackageCorrupt, match="is missing"):
        Package.open(root, verify=False)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "configs/../../x"])
def test_a_path_out_of_the_package_is_refused(tmp_path: Path, name: str) -> None:
    root = make_package(tmp_path / "p")
    edit_build(root, {"files": {name: {"sha256": "0" * 64, "size_bytes": 1}}})
    with pytest.raises(PackageCorrupt, match="names a file outside the package"):
        Package.open(root)


def test_what_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    """As of a bad block: the kernel answers EIO for the first page of its own memory, too."""
    root = make_package(tmp_path / "p")
    (root / "self").symlink_to("/proc/self")
    edit_build(root, {"files": {"self/mem": {"sha256": "0" * 64, "size_bytes": 0}}})
    Package.open(root, verify=False)
    with pytest.raises(PackageCorrupt, match=r"cannot read .*self/mem \(Input/output error\): copy") as unreadable:
        Package.open(root)
    assert unreadable.value.exit_code not in (2, 3, 4), "systemd tries it again: the disk may come back"
    (root / "models/decoder/board/build.json").unlink()
    (root / "models/decoder/board/build.json").mkdir()
    with pytest.raises(PackageCorrupt, match=r"cannot read .*/build.json \(Is a directory"):
        Package.open(root)


def test_a_build_file_that_is_not_ours_says_what_is_wrong(tmp_path: Path) -> None:
    root = make_package(tmp_path / "p")
    edit_build(root, {"format": 2, "extra": True})
    with pytest.raises(PackageCorrupt, match=r"extra: is not a known key; format: must be 1 \(got 2\)"):
        Package.open(root)


def test_a_package_for_another_machine_is_refused(tmp_path: Path) -> None:
    root = make_package(tmp_path / "p")
    needs = Package.open(root).build.needs.model_dump() | {"arch": "riscv64"}
    edit_build(root, {"needs": needs})
    with pytest.raises(PackageError, match="is for riscv64, but this machine is"):
        Package.open(root).require_this_machine()


@pytest.mark.parametrize(
    ("machine", "simulate", "refusal"),
    [
        ("aarch64", False, None),
        ("aarch64", True, "cannot be simulated on this machine: start it without --simulate"),
        ("x86_64", False, "is for aarch64, but this machine is x86_64: .* in the NPU's simulator with --simulate"),
        ("x86_64", True, None),
        ("riscv64", True, "cannot be simulated"),
    ],
)
def test_an_npu_is_simulated_only_where_there_is_a_simulator_and_when_told_so(
    tmp_path: Path, machine: str, simulate: bool, refusal: str | None
) -> None:
    root = make_package(tmp_path / "p")
    npu = find_profile("qualcomm-qcs6490").model_dump()
    edit_build(root, {"profile": npu, "needs": Package.open(root).build.needs.model_dump() | {"arch": "aarch64"}})
    package = Package.open(root)
    with pytest.raises(PackageError, match=refusal) if refusal else nullcontext():
        package.require_machine(machine, simulate=simulate)


def test_what_has_no_simulator_is_not_simulated(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="cannot be simulated on this machine"):
        Package.open(make_package(tmp_path / "p")).require_this_machine(simulate=True)


def test_the_file_of_the_build_model_is_what_opens(tmp_path: Path) -> None:
    """A `build.json` that the model itself wrote is read back equal, and the digest is of its bytes."""
    root = make_package(tmp_path / "p")
    build = Package.open(root).build
    path = root / "models/decoder/board/build.json"
    path.write_text(build.model_dump_json())
    package = Package.open(root)
    assert package.build == build
    assert package.build_digest == hashlib.sha256(path.read_bytes()).hexdigest()


@given(at=st.integers(0, 4), flip=st.integers(1, 255))
def test_no_changed_byte_goes_unseen(tmp_path_factory: pytest.TempPathFactory, at: int, flip: int) -> None:
    """Wherever it is and whatever it becomes, the file is named."""
    root = make_package(tmp_path_factory.mktemp("package"))
    graph = root / "models/decoder/board/serving.onnx"
    content = bytearray(graph.read_bytes())
    content[at] ^= flip
    graph.write_bytes(content)
    with pytest.raises(PackageCorrupt, match=r"models/decoder/board/serving\.onnx is corrupt"):
        Package.open(root)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "configs/.."])
def test_a_name_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    """It can be nothing that was built."""
    root = make_package(tmp_path / "p")
    edit_build(root, {"files": {name: {"sha256": "0" * 64, "size_bytes": 0}}})
    with pytest.raises(PackageCorrupt):
        Package.open(root)


def test_a_folder_in_a_files_place_is_a_missing_file(tmp_path: Path) -> None:
    """It is named, and there is no other error."""
    root = make_package(tmp_path / "p")
    (root / "configs/tokenizer.json").unlink()
    (root / "configs/tokenizer.json").mkdir()
    with pytest.raises(PackageCorrupt, match=r"configs/tokenizer\.json is missing"):
        Package.open(root)


@pytest.mark.parametrize("variant", ["", "..", "../..", "board/.", "/"])
def test_a_variant_is_a_name_and_no_path(tmp_path: Path, variant: str) -> None:
    """Only one of those that are listed opens."""
    with pytest.raises(PackageError, match=r"has no variant .*; it has board"):
        Package.open(make_package(tmp_path / "p"), variant)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"])
def test_a_build_file_that_is_no_json_object_is_corrupt(tmp_path: Path, content: bytes) -> None:
    """The error names it."""
    root = make_package(tmp_path / "p")
    (root / "models/decoder/board/build.json").write_bytes(content)
    with pytest.raises(PackageCorrupt, match=r"build\.json cannot be used"):
        Package.open(root)


def test_a_chat_template_is_a_file_or_in_the_tokenizers_configuration(tmp_path: Path) -> None:
    """The file counts first; without either there is an error that says what to do."""
    root = make_package(tmp_path / "p")
    package = Package.open(root)
    with pytest.raises(PackageError, match="has no chat template; send a raw prompt"):
        _ = package.chat_template
    (root / "configs/tokenizer_config.json").write_text('{"chat_template": "older"}')
    assert package.chat_template == "older"
    (root / "configs/chat_template.jinja").write_text("newer")
    assert package.chat_template == "newer"


def test_special_tokens_are_text_however_they_are_written(tmp_path: Path) -> None:
    """As text, as an object with content, null, or not at all."""
    root = make_package(tmp_path / "p")
    package = Package.open(root)
    assert package.special_token("eos_token") == ""
    tokens = {"eos_token": {"content": "</s>"}, "bos_token": None, "pad_token": "<pad>"}
    (root / "configs/tokenizer_config.json").write_text(json.dumps(tokens))
    assert [package.special_token(name) for name in ("eos_token", "bos_token", "pad_token")] == ["</s>", "", "<pad>"]


def test_a_package_without_adapters_does_not_mention_them(tmp_path: Path) -> None:
    """Its build.json is what it was before there were any, and reads back as it was written."""
    root = make_package(tmp_path / "p")
    build = Package.open(root).build
    assert "adapter" not in build_json(build)
    edit_build(root, {"adapter_targets": ["q_proj"]})
    with_places = Package.open(root).build
    assert json.loads(build_json(with_places))["adapter_targets"] == ["q_proj"]
    assert type(build).model_validate_json(build_json(build)) == build


def test_a_package_without_a_version_is_the_first(tmp_path: Path) -> None:
    """What was built before there were versions reads as 1.0.0; what is written always says its version."""
    root = make_package(tmp_path / "p")
    build = Package.open(root).build
    assert build.version == "1.0.0"
    assert json.loads(build_json(build))["version"] == "1.0.0"
    edit_build(root, {"version": "1.10.0"})
    assert Package.open(root).build.version == "1.10.0"


@pytest.mark.parametrize(
    "version", ["1.0", "1.0.0.0", "v1.0.0", "1.0.01", "1.0.0-rc1", "1.0.1000000", "1.0.٣", "", "1.0.0\n"]
)
def test_what_is_no_version_is_refused(tmp_path: Path, version: str) -> None:
    """Three decimal numbers, with one way to write each."""
    root = make_package(tmp_path / "p")
    edit_build(root, {"version": version})
    assert not is_version(version)
    with pytest.raises(PackageCorrupt, match="version: must match"):
        Package.open(root)


def test_an_adapters_name_is_no_path(tmp_path: Path) -> None:
    """A package cannot name a file elsewhere for one of its own."""
    golden = {"prompt_ids": [1], "greedy_ids": [2]}
    adapter = {"id": "a", "digest": "0", "rank": 1, "alpha": 1.0, "targets": [], "fidelity": None, "golden": golden}
    root = make_package(tmp_path / "p")
    edit_build(root, {"adapters": {"../../a": adapter}})
    with pytest.raises(PackageCorrupt, match="must match"):
        Package.open(root)


@pytest.mark.parametrize("what", ["a link to a device", "a pipe", "too large"])
def test_a_build_file_that_is_meant_to_hurt_is_refused(tmp_path: Path, what: str) -> None:
    """It is read before anybody knows whose package it is: it takes no memory, and nobody waits for it."""
    root = make_package(tmp_path / "p")
    file = root / "models/decoder/board/build.json"
    if what == "too large":
        with file.open("r+b") as opened:
            opened.truncate(1 << 40)
    else:
        file.unlink()
        file.symlink_to("/dev/zero") if what == "a link to a device" else os.mkfifo(file)
    with pytest.raises(PackageError, match=r"build\.json"):
        Package.open(root)


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """Whatever the file system has against it."""
    for look in (Package.open, open_variants, partial(variant_files, variant="board")):
        with pytest.raises(PackageError, match=r"cannot read .* \(File name too long\)"):
            look(tmp_path / ("x" * 300))
