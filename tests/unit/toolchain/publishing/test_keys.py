"""Keys and certificates to sign with: made once, read from whatever makes them, and refused before a device would."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from certificates import Authority
from signing import trust_folder

from runtime.errors import SigningError
from runtime.trust.roots import KeyRoot, read_roots
from toolchain.publishing.keys import Curve, make_key_pair, read_certificates, read_key


def nobody() -> bytes | None:
    raise AssertionError("a key without a passphrase has none asked for")


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_pair_is_a_key_and_a_trust_root(tmp_path: Path, curve: Curve, passphrase: bytes | None) -> None:
    """The private one is for its owner only, and encrypted if that was asked for."""
    made = make_key_pair(tmp_path / "fleet.2026", curve, passphrase)
    assert (made.private, made.public) == (tmp_path / "fleet.2026.key", tmp_path / "fleet.2026.pem")
    assert stat.S_IMODE(made.private.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in made.private.read_bytes()) == (passphrase is not None)
    key = read_key(made.private, nobody if passphrase is None else lambda: passphrase)
    assert key.curve.key_size == int(curve[1:])
    [root] = read_roots(trust_folder(tmp_path / "trust.d", made.public))
    assert isinstance(root, KeyRoot)
    assert root.public_key == made.public.read_bytes()


@pytest.mark.parametrize("there", ["fleet.key", "fleet.pem"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    """Neither of them, and the other is not written either."""
    (tmp_path / there).write_text("mine")
    with pytest.raises(SigningError, match=f"{there} is there already"):
        make_key_pair(tmp_path / "fleet", "p256", None)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


def test_there_are_both_files_or_none(tmp_path: Path) -> None:
    """A link that leads nowhere is in the way of the second."""
    (tmp_path / "fleet.pem").symlink_to(tmp_path / "nowhere/fleet.pem")
    with pytest.raises(SigningError, match=r"cannot write .*fleet\.pem"):
        make_key_pair(tmp_path / "fleet", "p256", None)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.pem"]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SigningError, match=r"cannot write .*fleet\.key: No such file or directory"):
        make_key_pair(tmp_path / "nowhere/fleet", "p256", None)


@pytest.mark.parametrize(
    "command",
    [
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out",
        "openssl ecparam -name prime256v1 -genkey -out",
        "openssl ecparam -name secp384r1 -genkey -noout -out",
    ],
)
def test_keys_of_openssl_are_as_good(tmp_path: Path, command: str) -> None:
    """In either form that it writes."""
    subprocess.run([*command.split(), str(tmp_path / "k.key")], check=True, capture_output=True)
    assert read_key(tmp_path / "k.key", nobody).curve.key_size in (256, 384)


def test_a_passphrase_is_needed_and_must_be_its_own(tmp_path: Path) -> None:
    made = make_key_pair(tmp_path / "fleet", "p256", b"right")
    with pytest.raises(SigningError, match=r"has a passphrase: give it with --passphrase-file or EDGEQWEN_PASSPHRASE"):
        read_key(made.private, lambda: None)
    with pytest.raises(SigningError, match="or the passphrase is not its own"):
        read_key(made.private, lambda: b"wrong")


def test_what_is_no_such_key_is_refused(tmp_path: Path) -> None:
    """A public one, one of another kind, nothing."""
    made = make_key_pair(tmp_path / "fleet", "p256", None)
    with pytest.raises(SigningError, match=r"fleet\.pem is no private key in PEM$"):
        read_key(made.public, nobody)
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(tmp_path / "ed.key")], check=True)
    with pytest.raises(SigningError, match="is not an elliptic key on P-256, P-384 or P-521"):
        read_key(tmp_path / "ed.key", nobody)
    with pytest.raises(SigningError, match="cannot be read: No such file or directory"):
        read_key(tmp_path / "nowhere.key", nobody)


def test_certificates_that_devices_would_refuse_are_refused(tmp_path: Path) -> None:
    """Of another key, for TLS only, expired, none."""
    authority = Authority(tmp_path)
    good = authority.issue("release", for_code=True)
    key = read_key(good.key, nobody)
    assert len(read_certificates(good.certificate, key)) == 1
    chain = tmp_path / "chain.pem"
    chain.write_bytes(good.certificate.read_bytes() + authority.file.read_bytes())
    assert len(read_certificates(chain, key)) == 2
    other = authority.issue("other", for_code=True)
    with pytest.raises(SigningError, match="its first certificate is of another key"):
        read_certificates(other.certificate, key)
    server = authority.server()
    with pytest.raises(SigningError, match="is not for signing: extendedKeyUsage has no codeSigning"):
        read_certificates(server.certificate, read_key(server.key, nobody))
    old = authority.issue("old", for_code=True, days=-1)
    with pytest.raises(SigningError, match="its first certificate expired on 20"):
        read_certificates(old.certificate, read_key(old.key, nobody))
    with pytest.raises(SigningError, match="has no certificate in PEM"):
        read_certificates(good.key, key)
