"""`edgeqwen verify` as people and scripts use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from signing import make_key, sign_package, trust_folder
from unit.runtime.tiny_package import edit_build, make_package

from runtime.package import signature_name
from runtime.trust.command import verify


def run(*arguments: object) -> Result:
    return CliRunner().invoke(verify, list(map(str, arguments)))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path, "fleet")


@pytest.fixture
def trusted(tmp_path: Path, key: Path) -> Path:
    return trust_folder(tmp_path / "trust.d", key.with_suffix(".pem"))


def test_every_variant_is_verified(tmp_path: Path, key: Path, trusted: Path) -> None:
    """For people a line each, for scripts an object; the folder may come from the environment."""
    root = sign_package(make_package(tmp_path / "p", "a", "b"), key)
    done = run(root, "--trust", trusted)
    assert done.exit_code == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "tiny 1.0.0"
    assert [line.partition(" sha256")[0] for line in lines] == [
        "a: whole, signed by the key",
        "b: whole, signed by the key",
    ]
    done = CliRunner().invoke(verify, [str(root), "--json"], env={"EDGEQWEN_TRUST": str(trusted)})
    said = json.loads(done.stdout)
    assert (said["package"], said["name"], said["version"]) == (str(root), "tiny", "1.0.0")
    assert [each["variant"] for each in said["variants"]] == ["a", "b"]
    signer = said["variants"][0]["signed_by"]
    assert (signer["kind"], signer["root"]) == ("key", "fleet.pem")
    assert signer["name"].startswith("sha256:")
    assert json.loads(run(root, "--trust", trusted, "--variant", "b", "--json").stdout)["variants"] == [
        {"variant": "b", "signed_by": signer}
    ]


def test_one_variant_that_nobody_signed_is_enough_to_refuse(tmp_path: Path, key: Path, trusted: Path) -> None:
    root = sign_package(make_package(tmp_path / "p", "a", "b"), key)
    (root / signature_name("b")).unlink()
    done = run(root, "--trust", trusted)
    assert (done.exit_code, done.stdout) == (5, "")
    assert done.stderr == "edgeqwen: variant b is not signed: `edgeqwen-compile sign` does that\n"
    assert run(root, "--trust", trusted, "--variant", "a").exit_code == 0


def test_what_is_wrong_is_one_line_and_a_status(tmp_path: Path, key: Path, trusted: Path) -> None:
    """3 for trust roots, 4 for the package, 5 for who signed."""
    root = sign_package(make_package(tmp_path / "p"), key)

    def refused(*arguments: object) -> tuple[int, str]:
        done = run(*arguments)
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        return done.exit_code, done.stderr

    status, said = refused(root, "--trust", tmp_path / "nowhere")
    assert (status, "but nobody is trusted" in said) == (5, True)
    status, said = refused(tmp_path / "nothing", "--trust", trusted)
    assert (status, "there is no package at" in said) == (4, True)
    status, said = refused(root, "--variant", "other", "--trust", trusted)
    assert (status, "has no variant 'other'" in said) == (4, True)
    edit_build(root, {"version": "2.0.0"})
    status, said = refused(root, "--trust", trusted)
    assert (status, "build.json is not what was signed" in said) == (5, True)
    (root / "configs/tokenizer.json").write_text("{ }")
    status, said = refused(root, "--trust", trusted)
    assert (status, "has 3 bytes, not 2" in said) == (4, True)
    trusted.chmod(0o777)
    status, said = refused(root, "--trust", trusted)
    assert (status, "others may write" in said) == (3, True)


def test_a_package_says_nothing_in_our_place(tmp_path: Path, trusted: Path) -> None:
    """A name that it has for a file could clear the screen and say that all is well."""
    root = make_package(tmp_path / "p")
    name = "\x1b[2J\x1b[1;1Htiny 1.0.0\nboard: whole, signed by the key\u009b0m"
    edit_build(root, {"files": {name: {"sha256": "0" * 64, "size_bytes": 1}}})
    done = run(root, "--trust", trusted)
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr.endswith("\n")
    assert done.stderr[:-1].isprintable()
