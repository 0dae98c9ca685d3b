"""`edgeqwen-compile sign` and `keygen`: every variant or none, once, and nothing else in the package changes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from certificates import Authority
from click.testing import CliRunner, Result
from signing import trust_folder
from unit.runtime.tiny_package import make_package

from runtime.package import Package, signature_name
from runtime.trust.trust import Trust
from toolchain.cli import main


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="edgeqwen-compile", env=environment)


def signed(root: Path, *flags: object) -> dict[str, bool]:
    """Which variants were signed anew, after a command that must succeed."""
    done = run("sign", root, "--json", *flags)
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    changed = {each["variant"]: each["changed"] for each in said["variants"]}
    assert said["changed"] == any(changed.values())
    return changed


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_package(tmp_path / "p.ortpackage", "a", "b")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert run("keygen", tmp_path / "fleet").exit_code == 0
    return tmp_path / "fleet.key"


def test_a_package_is_signed_once(root: Path, key: Path, tmp_path: Path) -> None:
    """Each variant has a signature beside what was there before, and the same command again changes nothing."""
    before = contents(root)
    assert signed(root, "--key", key) == {"a": True, "b": True}
    after = contents(root)
    assert set(after) - set(before) == {"signatures/a.sig", "signatures/b.sig"}
    assert {name: after[name] for name in before} == before
    assert signed(root, "--key", key) == {"a": False, "b": False}
    assert contents(root) == after
    trust = Trust.read(trust_folder(tmp_path / "trust.d", key.with_suffix(".pem")))
    assert trust.verify(Package.open(root, "a")) == trust.verify(Package.open(root, "b"))
    said = run("sign", root, "--key", key).stdout.splitlines()
    assert said[0].startswith("a: was signed before with the key sha256:")


@pytest.mark.parametrize("spoiled", [b"", b"{}", None])
def test_only_what_lacks_a_valid_signature_is_signed(root: Path, key: Path, spoiled: bytes | None) -> None:
    """None, a damaged one, one of other files."""
    signed(root, "--key", key)
    file = root / signature_name("a")
    kept = (root / signature_name("b")).read_bytes()
    file.unlink() if spoiled is None else file.write_bytes(spoiled or kept)
    assert signed(root, "--key", key) == {"a": True, "b": False}
    assert (root / signature_name("b")).read_bytes() == kept


def test_another_signer_signs_anew(root: Path, key: Path, tmp_path: Path) -> None:
    """Another key, and a certificate of the same key; that of a certificate stays too."""
    signed(root, "--key", key)
    assert run("keygen", tmp_path / "new").exit_code == 0
    assert signed(root, "--key", tmp_path / "new.key") == {"a": True, "b": True}
    authority = Authority(tmp_path)
    pair = authority.issue("release", for_code=True)
    flags = ("--key", pair.key, "--certificate", pair.certificate)
    assert signed(root, "--key", pair.key) == {"a": True, "b": True}
    assert signed(root, *flags) == {"a": True, "b": True}
    assert signed(root, *flags) == {"a": False, "b": False}
    trust = Trust.read(trust_folder(tmp_path / "trust.d", authority.file))
    assert trust.verify(Package.open(root, "a")).name == "CN=release"


def test_a_signature_that_only_claims_to_be_ours_is_replaced(root: Path, key: Path) -> None:
    """It names our key and our files, but was made otherwise."""
    signed(root, "--key", key)
    file = root / signature_name("a")
    ours, theirs = (json.loads((root / signature_name(name)).read_bytes()) for name in "ab")
    ours["dsseEnvelope"]["signatures"] = theirs["dsseEnvelope"]["signatures"]
    file.write_text(json.dumps(ours))
    assert signed(root, "--key", key) == {"a": True, "b": False}


def test_everybody_may_read_a_signature(root: Path, key: Path) -> None:
    """The daemon's user too, whatever the umask of who signs."""
    before = os.umask(0o077)
    try:
        signed(root, "--key", key)
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "signatures").stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in (root / "signatures").iterdir()} == {0o644}


def test_a_damaged_package_gets_no_signature(root: Path, key: Path) -> None:
    """Not even the variants that are whole."""
    (root / "models/decoder/b/serving.onnx").write_bytes(b"grapH")
    done = run("sign", root, "--key", key)
    assert done.exit_code == 4
    assert "models/decoder/b/serving.onnx is corrupt" in done.stderr
    assert not (root / "signatures").exists()


def test_a_passphrase_comes_from_a_file_or_the_environment(root: Path, tmp_path: Path) -> None:
    """Its first line; without one, the command says how to give it."""
    (tmp_path / "secret").write_text("correct horse\n")
    done = run("keygen", tmp_path / "safe", "--passphrase-file", tmp_path / "secret", "--json")
    said = json.loads(done.stdout)
    assert (said["private"], said["encrypted"]) == (str(tmp_path / "safe.key"), True)
    done = run("sign", root, "--key", tmp_path / "safe.key")
    assert done.exit_code == 1
    assert done.stderr.endswith("has a passphrase: give it with --passphrase-file or EDGEQWEN_PASSPHRASE\n")
    done = run("sign", root, "--key", tmp_path / "safe.key", EDGEQWEN_PASSPHRASE="correct horse")
    assert done.exit_code == 0
    assert signed(root, "--key", tmp_path / "safe.key", "--passphrase-file", tmp_path / "secret") == {
        "a": False,
        "b": False,
    }


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "say what to sign with: --key FILE, or --sigstore"),
        (["--key", "k", "--sigstore"], "say what to sign with"),
        (["--sigstore", "--certificate", "c"], "belong to --key"),
        (["--key", "k", "--trust-config", "t"], "belong to --sigstore"),
    ],
)
def test_one_way_to_sign_is_chosen(root: Path, flags: list[str], says: str) -> None:
    done = run("sign", root, *flags)
    assert done.exit_code == 2
    assert says in done.stderr


def test_no_package_and_no_key_are_one_line(tmp_path: Path, root: Path, key: Path) -> None:
    done = run("sign", tmp_path / "nothing", "--key", key)
    assert (done.exit_code, "there is no package at" in done.stderr) == (4, True)
    done = run("sign", root, "--key", tmp_path / "nowhere.key")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)


def test_sigstore_that_cannot_sign_is_one_line(root: Path, tmp_path: Path) -> None:
    """Here of an instance whose configuration is none. No signature is written."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "token").write_text("no.token.at-all")
    flags = ("--identity-token", tmp_path / "token", "--trust-config", tmp_path / "config.json")
    done = run("sign", root, "--sigstore", *flags)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("edgeqwen-compile: Sigstore did not sign: ")
    assert not (root / "signatures").exists()


def test_the_librarys_own_command_accepts_a_package_with_all_its_variants(root: Path, key: Path) -> None:
    """`model_signing verify` goes by what the signature says that it is not about: other variants."""
    signed(root, "--key", key)
    options = ["--signature", str(root / signature_name("a")), "--public_key", str(key.with_suffix(".pem"))]
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(root), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr


@pytest.mark.parametrize("in_the_way", ["signatures", "signatures/a.sig/x"])
def test_what_is_in_the_way_of_a_signature_is_one_line(root: Path, key: Path, in_the_way: str) -> None:
    path = root / in_the_way
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    done = run("sign", root, "--key", key)
    assert done.exit_code == 1
    assert "cannot write" in done.stderr.splitlines()[-1]


def test_a_file_name_that_nobody_could_read_is_not_signed(root: Path, key: Path) -> None:
    """Not even one that is no text."""
    (root / "configs/\udcff.json").touch()
    done = run("sign", root, "--key", key)
    assert done.exit_code == 1
    assert "which is no path in a package" in done.stderr
    assert not (root / "signatures").exists()
