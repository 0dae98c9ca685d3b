"""`edgeqwen-compile push` and `export` as people and scripts use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_registry import fake_registry
from unit.runtime.oci.remotes import WEIGHTS, package_with

from toolchain.cli import main


def run(*arguments: object) -> Result:
    environment = {"EDGEQWEN_REGISTRIES": "/dev/null"}
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="edgeqwen-compile", env=environment)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return package_with(tmp_path / "p.ortpackage", {WEIGHTS: b"weights" * 50})


def test_a_push_says_what_pins_the_package(package: Path) -> None:
    """As the only line of stdout, and as JSON; the version is the tag if none is given."""
    with fake_registry() as registry:
        done = run("push", package, f"oci://{registry.host}/edge/qwen", "--tag", "latest")
        again = run("push", package, f"oci://{registry.host}/edge/qwen:latest", "--json")
    said = json.loads(again.stdout)
    assert (done.exit_code, again.exit_code, said["changed"]) == (0, 0, False)
    assert done.stdout == f"oci://{registry.host}/edge/qwen:latest@{said['digest']}\n"
    assert set(registry.manifests) >= {"latest", said["digest"]}
    assert "MB sent, 0.0 MB there already" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["push", "PACKAGE", "dist/elsewhere"], 2, "a package is pushed to oci://"),
        (["push", "PACKAGE", f"oci://r.example/q@sha256:{'0' * 64}"], 2, "whose digest it decides itself"),
        (["push", "PACKAGE", "oci://r.example/q", "--tag", "not a tag"], 2, "is no tag"),
        (["push", "PACKAGE", "oci://r.example/q", "--chunk-size", "0M"], 2, "looks like 50M or 1G"),
        (["push", "PACKAGE", "oci://R/Q"], 2, "is no reference"),
        (["push", "nowhere", "oci://127.0.0.1:1/q"], 4, "there is no package at nowhere"),
        (["push", "PACKAGE", "oci://127.0.0.1:1/q", "--retries", "0"], 69, "does not answer: connection refused"),
        (["export", "PACKAGE", "--oci-layout", "/proc/nowhere"], 1, "cannot write to /proc/nowhere"),
        (["export", "PACKAGE"], 2, "--oci-layout"),
        (["export", "PACKAGE", "--oci-layout", "usb", "--tag", ".."], 2, "is no tag"),
    ],
)
def test_what_cannot_be_done_is_said(package: Path, arguments: list[str], status: int, said: str) -> None:
    done = run(*[str(package) if argument == "PACKAGE" else argument for argument in arguments])
    assert done.exit_code == status
    assert said in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_an_export_says_how_it_is_called(package: Path, tmp_path: Path) -> None:
    done = run("export", package, "--oci-layout", tmp_path / "usb")
    assert (done.exit_code, done.stdout) == (0, f"oci-layout:{tmp_path}/usb:tiny-1.0.0\n")
    again = run("export", package, "--oci-layout", tmp_path / "usb", "--json")
    said = json.loads(again.stdout)
    assert (said["changed"], said["tag"], said["written_bytes"]) == (False, "tiny-1.0.0", 0)
