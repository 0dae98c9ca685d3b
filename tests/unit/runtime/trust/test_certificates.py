"""A certificate counts if an authority that is trusted made it for signing code, and it is valid now."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificates import Authority, Pair
from signing import by_certificate, trust_folder

from runtime.errors import NotTrusted
from runtime.trust.roots import Signer
from runtime.trust.trust import Trust

DIGESTS = {"models/decoder/v/build.json": "1" * 64}


def verify(folder: Path, authority: Authority, signature: bytes) -> Signer:
    return Trust.read(trust_folder(folder / "trust.d", authority.file)).verify_digests("v", signature, DIGESTS)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_certificate_for_code_counts(tmp_path: Path, authority: Authority) -> None:
    """It says who signed, in the words of the authority."""
    signature = by_certificate(authority.issue("release", for_code=True), authority.file, DIGESTS)
    assert verify(tmp_path, authority, signature) == Signer("certificate", "CN=release", "ca.crt")


def refusal(folder: Path, authority: Authority, pair: Pair, chain: Path) -> str:
    with pytest.raises(NotTrusted) as raised:
        verify(folder, authority, by_certificate(pair, chain, DIGESTS))
    return str(raised.value)


def test_one_for_tls_does_not(tmp_path: Path, authority: Authority) -> None:
    """Else every board's own certificate, by the same authority, could sign packages. The library takes it."""
    said = refusal(tmp_path, authority, authority.server(), authority.file)
    assert "ca.crt: the certificate of CN=edgeqwend is not for signing: extendedKeyUsage has no codeSigning" in said


def test_an_expired_one_does_not(tmp_path: Path, authority: Authority) -> None:
    """The library takes it, as it takes the beginning of the certificate for the time."""
    said = refusal(tmp_path, authority, authority.issue("release", for_code=True, days=-1), authority.file)
    assert "ca.crt: the certificate of CN=release: certificate has expired, on 20" in said


def test_an_expired_authority_does_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path, days=-1)
    said = refusal(tmp_path, authority, authority.issue("release", for_code=True), authority.file)
    assert "the certificate of CN=ca: certificate has expired" in said


def test_another_authority_does_not(tmp_path: Path, authority: Authority) -> None:
    """Of another name, and of the same name with another key; that it comes along in the signature helps nobody."""
    for name in ("other", "ca"):
        (tmp_path / name).mkdir()
        other = Authority(tmp_path / name, name)
        said = refusal(tmp_path, authority, other.issue("release", for_code=True), other.file)
        assert "signed with a certificate, but nothing in " in said


def test_a_certificate_that_is_no_authority_cannot_make_others(tmp_path: Path, authority: Authority) -> None:
    """One for code that an authority made is taken for an authority."""
    inner = authority.issue("release", for_code=True)
    thief = Authority.of(inner, tmp_path / "thief")
    said = refusal(tmp_path, authority, thief.issue("thief", for_code=True), inner.certificate)
    assert "invalid CA certificate" in said


def test_an_authority_vouches_for_no_key_and_a_key_for_no_certificate(tmp_path: Path, authority: Authority) -> None:
    """The error says which kind of root is missing."""
    signature = by_certificate(authority.issue("release", for_code=True), authority.file, DIGESTS)
    empty = Trust.read(trust_folder(tmp_path / "empty"))
    with pytest.raises(NotTrusted, match=r"with a certificate, but nobody is trusted"):
        empty.verify_digests("v", signature, DIGESTS)
