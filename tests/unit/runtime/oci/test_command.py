"""`edgeqwen pull` as people and scripts use it, from places that need no network."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_registry import fake_registry
from unit.runtime.oci.remotes import WEIGHTS, MemoryRemote, files_of, package_with

from runtime.disk import LocalDisk
from runtime.oci.command import pull
from runtime.oci.documents import INDEX_TYPE, MANIFEST_TYPE

needs_registries = pytest.mark.skipif(find_spec("oras") is None, reason="needs the extra `oci`")


def run(*arguments: object) -> Result:
    given = ["--registries", "/dev/null", *map(str, arguments)]
    return CliRunner().invoke(pull, given, prog_name="edgeqwen pull")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return package_with(tmp_path / "p.ortpackage", {WEIGHTS: b"weights" * 50})


def test_a_pull_says_where_the_package_is_and_twice_is_once(package: Path, tmp_path: Path) -> None:
    """The same for scripts, who see whether anything changed."""
    done = run(package, "-o", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/out/tiny.ortpackage\n")
    assert files_of(tmp_path / "out/tiny.ortpackage") == files_of(package)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.ortpackage"]
    again = run(package, "-o", tmp_path / "out", "--json")
    said = json.loads(again.stdout)
    assert (again.exit_code, said["changed"], said["fetched_bytes"]) == (0, False, 0)
    assert said["package"] == f"{tmp_path}/out/tiny.ortpackage"
    assert {"name", "version", "variant", "profile", "arch", "digest"} <= said.keys()


@pytest.mark.parametrize("damage", ["changed", "more", "less"])
def test_what_is_in_the_way_is_not_replaced(package: Path, tmp_path: Path, damage: str) -> None:
    """Somebody may need it."""
    run(package, "-o", tmp_path / "out")
    file = tmp_path / "out/tiny.ortpackage" / WEIGHTS
    if damage == "less":
        file.unlink()
    else:
        (file if damage == "changed" else file.with_name("more")).write_bytes(b"weightz" * 50)
    before = files_of(tmp_path / "out")
    done = run(package, "-o", tmp_path / "out")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "is there and is not tiny 1.0.0 for board: remove it, or choose another --output" in done.stderr
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("reference", "status", "said"),
    [
        ("oci://", 2, "is no reference"),
        ("oci-layout:{folder}/nowhere", 4, "was not copied whole"),
        ("{folder}/nowhere.ortpackage", 4, "there is no package at"),
        ("x" * 300, 1, "File name too long"),
        pytest.param("oci://127.0.0.1:1/edge", 69, "does not answer: connection refused", marks=needs_registries),
    ],
)
def test_what_cannot_be_pulled_is_one_line_and_its_status(
    tmp_path: Path, reference: str, status: int, said: str
) -> None:
    """Nothing is made."""
    done = run(reference.format(folder=tmp_path), "-o", tmp_path / "out", "--retries", "0", "--plain-http")
    assert (done.exit_code, done.stderr.count("\n"), done.stdout) == (status, 1, "")
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_variant_that_is_not_there_is_said_with_those_that_are(package: Path, tmp_path: Path) -> None:
    done = run(package, "--variant", "other", "-o", tmp_path / "out")
    assert done.exit_code == 4
    assert "tiny 1.0.0 has no variant 'other'; it has board" in done.stderr


def test_two_pulls_into_one_folder_do_not_meet(package: Path, tmp_path: Path) -> None:
    incoming = tmp_path / "out/.edgeqwen-incoming"
    incoming.mkdir(parents=True)
    with LocalDisk().lock(incoming / "lock", 0.0):
        done = run(package, "-o", tmp_path / "out")
    assert (done.exit_code, done.stderr.count("\n")) == (75, 1)
    assert run(package, "-o", tmp_path / "out").exit_code == 0


@needs_registries
def test_a_pull_that_was_cut_ends_with_75_and_goes_on(package: Path, tmp_path: Path) -> None:
    """What it had is not fetched again."""
    memory = MemoryRemote.of(package)
    with fake_registry(cut_every=100) as registry:
        registry.blobs = memory.blobs
        registry.manifests = {
            digest: (MANIFEST_TYPE, content) for digest, content in memory.documents.items() if digest
        }
        registry.manifests["latest"] = (INDEX_TYPE, memory.documents[""])
        arguments = (f"oci://{registry.host}/edge", "-o", tmp_path / "out", "--retries", "0")
        cut = run(*arguments)
        assert (cut.exit_code, cut.stderr.count("\n")) == (75, 1)
        assert "what came is kept: do the same again to go on" in cut.stderr
        registry.cut_every = None
        done = run(*arguments, "--json")
    said = json.loads(done.stdout)
    assert said["kept_bytes"] >= 100
    assert said["kept_bytes"] + said["fetched_bytes"] == sum(len(content) for content in memory.blobs.values())


@needs_registries
def test_a_mirror_that_fails_is_said_in_a_line_and_done_without(package: Path, tmp_path: Path) -> None:
    memory = MemoryRemote.of(package)
    with fake_registry() as mirror, fake_registry() as registry:
        registry.blobs = memory.blobs
        registry.manifests = {
            digest: (MANIFEST_TYPE, content) for digest, content in memory.documents.items() if digest
        }
        registry.manifests["1"] = (INDEX_TYPE, memory.documents[""])
        done = run(f"oci://{registry.host}/edge:1", "--mirror", mirror.host, "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert done.stderr.splitlines()[0].startswith(f"edgeqwen: there is no {mirror.host}/edge:1 (manifest unknown)")
    assert done.stderr.splitlines()[0].endswith("; asking the next")


_WITHOUT = """
import sys
sys.modules["oras"] = None
from runtime.oci.command import pull
pull()
"""


def test_folders_need_nothing_more_and_registries_say_what_they_need(package: Path, tmp_path: Path) -> None:
    """Where the extra `oci` is not installed."""
    for reference, status in ((package, 0), ("oci://registry.example/edge", 1)):
        command = [
            sys.executable,
            "-c",
            _WITHOUT,
            str(reference),
            "-o",
            str(tmp_path / "out"),
            "--registries",
            "/dev/null",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
    assert "is not installed: pip install 'edgeqwen[oci]'" in done.stderr
    assert done.stderr.count("\n") == 1
