"""Trust roots are read strictly: what cannot be used, or what others may write, is said with its file, all at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from certificates import Authority
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from signing import make_key, trust_folder

from runtime.errors import ConfigError
from runtime.trust.bundle import MAX_BYTES
from runtime.trust.folder import ownership_fault
from runtime.trust.roots import CertificateRoot, KeyRoot, SigstoreRoot, read_roots


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trust.d").mkdir()
    return tmp_path / "trust.d"


def faults(folder: Path) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        read_roots(folder)
    return {Path(fault.path).name: fault.message for fault in raised.value.faults}


def test_every_kind_is_read_by_its_name(folder: Path, tmp_path: Path) -> None:
    """In the order of their names; what is called otherwise, or is hidden, is left alone."""
    trust_folder(folder, make_key(tmp_path, "b").with_suffix(".pem"), Authority(tmp_path, "a").file)
    (folder / "c.yaml").write_text("identity: me@example.com\nissuer: https://issuer.invalid\n")
    (folder / "README").write_text("two keys while we change them")
    (folder / ".b.pem.swp").write_text("")
    (folder / ".c.yaml").write_text("[")
    roots = read_roots(folder)
    assert [type(root) for root in roots] == [CertificateRoot, KeyRoot, SigstoreRoot]
    assert [root.file for root in roots] == ["a.crt", "b.pem", "c.yaml"]


def test_one_file_may_be_named_alone(folder: Path, tmp_path: Path) -> None:
    """Whoever has just made a key tries it so."""
    key = make_key(tmp_path, "fleet")
    (root,) = read_roots(key.with_suffix(".pem"))
    assert isinstance(root, KeyRoot)
    assert root.file == "fleet.pem"
    (folder / "private.pem").write_bytes(key.read_bytes())
    assert list(faults(folder / "private.pem")) == ["private.pem"]


def test_a_folder_that_is_not_there_trusts_nobody(tmp_path: Path) -> None:
    assert read_roots(tmp_path / "nowhere") == ()


def test_all_that_cannot_be_used_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    """Each with what to do instead."""
    private = make_key(tmp_path, "fleet")
    (folder / "private.pem").write_bytes(private.read_bytes())
    (folder / "certificate.pem").write_bytes(Authority(tmp_path).file.read_bytes())
    two = b"".join(make_key(tmp_path, name).with_suffix(".pem").read_bytes() for name in "ab")
    (folder / "two.pem").write_bytes(two)
    (folder / "empty.pem").touch()
    (folder / "empty.crt").touch()
    (folder / "key.crt").write_bytes(private.with_suffix(".pem").read_bytes())
    (folder / "large.pem").write_bytes(b" " * (MAX_BYTES + 1))
    (folder / "folder.pem").mkdir()
    (folder / "broken.yaml").write_text("identity: a\nissuer: https://b\nidentity: c")
    (folder / "list.yaml").write_text("[]")
    (folder / "keys.yaml").write_text("identity: ''\nissuer: 3\nroot: x")
    (folder / "config.yaml").write_text("identity: a\nissuer: https://b\ntrust_config: nowhere.json")
    assert faults(folder) == {
        "private.pem": "is a private key, which no device should have: put the public one here",
        "certificate.pem": "is a certificate: one of an authority is called *.crt",
        "two.pem": "has more than one key: give each a file",
        "empty.pem": "is no public key in PEM",
        "empty.crt": "has no certificate in PEM, or a damaged one",
        "key.crt": "has no certificate in PEM, or a damaged one",
        "large.pem": "is larger than 1024 KiB",
        "folder.pem": "cannot be read: Is a directory",
        "broken.yaml": "cannot be read: line 1: identity is there more than once",
        "list.yaml": "has no `identity` and `issuer`",
        "keys.yaml": r"identity: must match ^\S{1,512}$ (got ''); issuer: must be a valid string (got 3);"
        " root: is not a known key",
        "nowhere.json": "cannot be read: No such file or directory",
    }


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256K1()), ed25519.Ed25519PrivateKey.generate()])
def test_keys_of_other_kinds_are_refused(
    folder: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    """Model signing has three curves."""
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "k.pem").write_bytes(pem)
    assert faults(folder) == {"k.pem": "is not an elliptic key on P-256, P-384 or P-521"}


def test_too_many_are_refused(folder: Path) -> None:
    for index in range(65):
        (folder / f"{index}.pem").touch()
    assert faults(folder) == {"trust.d": "has 65 files, at most 64"}


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_folder_that_others_may_write_is_refused(folder: Path, mode: int) -> None:
    """A sticky one too: anybody could put a key there."""
    folder.chmod(mode)
    assert faults(folder) == {"trust.d": f"others may write {folder}: chmod go-w {folder}"}


def test_a_file_that_others_may_write_is_refused(folder: Path, tmp_path: Path) -> None:
    """And what it is a link to, and what its YAML names."""
    public = make_key(tmp_path, "fleet").with_suffix(".pem")
    (folder / "fleet.pem").symlink_to(public)
    (folder / "ci.yaml").write_text("identity: a\nissuer: https://b\ntrust_config: sigstore.json")
    (folder / "sigstore.json").write_text("{}")
    assert len(read_roots(folder)) == 2
    public.chmod(0o666)
    (folder / "sigstore.json").chmod(0o664)
    assert faults(folder) == {
        "fleet.pem": f"others may write {public}: chmod go-w {public}",
        "sigstore.json": f"others may write {folder / 'sigstore.json'}: chmod go-w {folder / 'sigstore.json'}",
    }


def test_a_folder_around_it_that_others_may_write_is_refused(folder: Path) -> None:
    """They could put another in its place; not in one that is sticky, as /tmp is."""
    folder.parent.chmod(0o777)
    assert faults(folder) == {"trust.d": f"others may write {folder.parent}: chmod go-w {folder.parent}"}
    folder.parent.chmod(0o1777)
    assert read_roots(folder) == ()


def test_a_link_to_the_folder_must_be_ours_too(folder: Path, tmp_path: Path) -> None:
    """Who may write where the link is can have it lead elsewhere."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/trust.d").symlink_to(folder)
    assert read_roots(tmp_path / "etc/trust.d") == ()
    (tmp_path / "etc").chmod(0o777)
    assert "others may write" in faults(tmp_path / "etc/trust.d")["trust.d"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(folder: Path, tmp_path: Path) -> None:
    """Whatever its mode: its owner can change that."""
    trust_folder(folder, make_key(tmp_path, "fleet").with_suffix(".pem"))
    os.chown(folder / "fleet.pem", 1234, 0)
    file = folder / "fleet.pem"
    assert faults(folder) == {"fleet.pem": f"{file} belongs to user 1234: chown root {file}"}


def test_what_is_ours_is_fine(folder: Path) -> None:
    assert ownership_fault(folder) is None
