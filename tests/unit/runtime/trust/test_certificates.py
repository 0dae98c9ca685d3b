"""A certificate counts if an authority that is trusted made it for signing code, and it is valid now."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from certificates import Authority, Pair
from OpenSSL.crypto import X509StoreContextError
from signing import by_certificate, by_key, make_key, trust_folder

from runtime.errors import NotTrusted
from runtime.trust.library import verify_certificate
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


def refusal(
    folder: Path, authority: Authority, pair: Pair, chain: Path, *, by_the_library: type[Exception] | None
) -> str:
    """Why we refuse it, and what the library alone says: None if it takes it."""
    signature = by_certificate(pair, chain, DIGESTS)
    with nullcontext() if by_the_library is None else pytest.raises(by_the_library):
        verify_certificate(authority.file.read_bytes(), signature, DIGESTS)
    with pytest.raises(NotTrusted) as raised:
        verify(folder, authority, signature)
    return str(raised.value)


def test_one_for_tls_does_not(tmp_path: Path, authority: Authority) -> None:
    """Else every board's own certificate, by the same authority, could sign packages."""
    said = refusal(tmp_path, authority, authority.server(), authority.file, by_the_library=None)
    assert "ca.crt: the certificate of CN=edgeqwend is not for signing: extendedKeyUsage has no codeSigning" in said


def test_an_expired_one_does_not(tmp_path: Path, authority: Authority) -> None:
    """The library takes the beginning of the certificate for the time."""
    pair = authority.issue("release", for_code=True, days=-1)
    said = refusal(tmp_path, authority, pair, authority.file, by_the_library=None)
    assert "ca.crt: the certificate of CN=release: certificate has expired, on 20" in said


def test_an_expired_authority_does_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path, days=-1)
    pair = authority.issue("release", for_code=True)
    said = refusal(tmp_path, authority, pair, authority.file, by_the_library=X509StoreContextError)
    assert "the certificate of CN=ca: certificate has expired" in said


def test_another_authority_does_not(tmp_path: Path, authority: Authority) -> None:
    """Of another name, and of the same name with another key; that it comes along in the signature helps nobody."""
    for name in ("other", "ca"):
        (tmp_path / name).mkdir()
        other = Authority(tmp_path / name, name)
        pair = other.issue("release", for_code=True)
        said = refusal(tmp_path, authority, pair, other.file, by_the_library=X509StoreContextError)
        assert "signed with a certificate, but nothing in " in said


def test_a_certificate_that_is_no_authority_cannot_make_others(tmp_path: Path, authority: Authority) -> None:
    """One for code that an authority made is taken for an authority."""
    inner = authority.issue("release", for_code=True)
    thief = Authority.of(inner, tmp_path / "thief")
    pair = thief.issue("thief", for_code=True)
    said = refusal(tmp_path, authority, pair, inner.certificate, by_the_library=X509StoreContextError)
    assert "invalid CA certificate" in said


def test_the_error_says_which_kind_of_root_is_missing(tmp_path: Path, authority: Authority) -> None:
    """A key vouches for no certificate, and an authority for no key."""
    key = make_key(tmp_path, "fleet")
    certified = by_certificate(authority.issue("release", for_code=True), authority.file, DIGESTS)
    keys, authorities = (
        Trust.read(trust_folder(tmp_path / name, file))
        for name, file in (("keys", key.with_suffix(".pem")), ("authorities", authority.file))
    )
    with pytest.raises(NotTrusted, match=r"with a certificate, but .*/keys has no \*\.crt that could vouch for that"):
        keys.verify_digests("v", certified, DIGESTS)
    with pytest.raises(NotTrusted, match=r"by the key .*, but .*/authorities has no \*\.pem"):
        authorities.verify_digests("v", by_key(key, DIGESTS), DIGESTS)
