"""Certificates for tests, real ones, made when they are asked for."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AN_HOUR, _TWO_DAYS = timedelta(hours=1), timedelta(days=2)
_SIGNATURES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates. `file` has its own."""

    def __init__(self, folder: Path, name: str = "ca", *, days: float = 365) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        now = datetime.now(UTC)
        end = now + timedelta(days=days)
        builder = _builder(self._name, self._name, self._key, min(end, now) - _TWO_DAYS, end)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    @classmethod
    def of(cls, pair: Pair, folder: Path) -> Authority:
        """Makes certificates with a certificate of another, whether that may or not."""
        folder.mkdir()
        made = cls(folder)
        key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        made._key = key
        made._name = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).subject
        made.file = pair.certificate
        return made

    def issue(
        self,
        name: str,
        *,
        hosts: tuple[str, ...] = (),
        uri: str | None = None,
        email: str | None = None,
        for_code: bool = False,
        days: float = 90,
        file: str | None = None,
    ) -> Pair:
        """A certificate that expires in `days`, less than none for one that has, in `file`.pem and .key.

        All may be used for signatures of TLS; with `for_code`, for those of code too.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        end = datetime.now(UTC) + timedelta(days=days)
        builder = _builder(_named(name), self._name, key, min(end, datetime.now(UTC)) - _AN_HOUR, end)
        others: list[x509.GeneralName] = [_host(host) for host in hosts]
        others += [x509.UniformResourceIdentifier(uri)] if uri else []
        others += [x509.RFC822Name(email)] if email else []
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
        builder = builder.add_extension(_SIGNATURES, critical=True)
        if for_code:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        pair = Pair(self._folder / f"{file or name}.pem", self._folder / f"{file or name}.key")
        pair.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def server(self, *, days: float = 90, file: str = "server") -> Pair:
        """A certificate for a daemon on this machine."""
        return self.issue("edgeqwend", hosts=("localhost", "127.0.0.1", "::1"), days=days, file=file)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
