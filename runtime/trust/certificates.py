"""Certificates that may sign packages. The library's rules are wider: it never looks at the time, nor asks what for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from ..errors import printable
from .bundle import Unfit


def signing_certificate(der: bytes) -> x509.Certificate:
    """The certificate. Raises Unfit if it does not say that it is for signing code, ValueError if it is damaged."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        usages = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usages = []
    if ExtendedKeyUsageOID.CODE_SIGNING not in usages:
        raise Unfit(
            f"the certificate of {name_of(certificate)} is not for signing: extendedKeyUsage has no codeSigning"
        )
    return certificate


def require_chain_today(chain: Sequence[bytes], authorities: Sequence[x509.Certificate]) -> None:
    """Raises Unfit unless the chain (DER, the signer's first) leads to an authority, all of it valid now."""
    store = crypto.X509Store()
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
    signer, *others = (crypto.X509.from_cryptography(x509.load_der_x509_certificate(der)) for der in chain)
    try:
        crypto.X509StoreContext(store, signer, others).verify_certificate()
    except crypto.X509StoreContextError as error:
        whose = name_of(error.certificate.to_cryptography())
        raise Unfit(f"the certificate of {whose}: {error}, on {datetime.now(UTC):%Y-%m-%d}") from error


def name_of(certificate: x509.Certificate) -> str:
    """Its subject, as people write it: CN=release,O=fleet."""
    return printable(certificate.subject.rfc4514_string())
