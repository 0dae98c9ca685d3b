"""Trust roots: keys, authorities and identities that may sign packages, read from the files of a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from ..errors import ConfigError, Fault, printable
from ..validation import StrictModel, parse
from ..yaml_file import parse_yaml
from .bundle import MAX_BYTES, Bundle, Kind, Unfit, key_digest
from .folder import ownership_fault

CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Of keys that model signing has, as cryptography calls them: P-256, P-384 and P-521."""

_MAX_ROOTS = 64


@dataclass(frozen=True)
class Signer:
    """Who signed a package, and by which file of the trust roots that counts.

    Args:
        name: `sha256:HEX` of a key's PEM, a certificate's subject, or an identity of Sigstore.
        root: the file's name.
    """

    kind: Kind
    name: str
    root: str

    def __str__(self) -> str:
        name = f"{self.name[:19]}..." if self.kind == "key" else self.name
        return f"the {'identity' if self.kind == 'sigstore' else self.kind} {name} ({self.root})"


class Root(Protocol):
    """Somebody who may sign packages."""

    @property
    def file(self) -> str:
        """The name of the file that says so."""

    @property
    def kind(self) -> Kind:
        """Of signatures that it can vouch for."""

    def verify(self, bundle: Bundle, digests: Mapping[str, str]) -> Signer:
        """Who signed these digests with `bundle`, which is of its kind.

        Raises Unfit, or what a library makes of it, if this root does not vouch for that.
        """


@dataclass(frozen=True)
class KeyRoot:
    """The owner of a private key, by the public one in PEM."""

    file: str
    public_key: bytes
    kind: Kind = "key"

    def verify(self, bundle: Bundle, digests: Mapping[str, str]) -> Signer:
        from .library import verify_key

        digest = key_digest(self.public_key)
        if bundle.signer != digest:
            raise Unfit(f"another key ({digest[:12]}...)")
        verify_key(self.public_key, bundle.content, digests)
        return Signer("key", f"sha256:{digest}", self.file)


@dataclass(frozen=True)
class CertificateRoot:
    """Whoever has a certificate for signing by an authority, in PEM with those that lead to it."""

    file: str
    authorities: bytes
    kind: Kind = "certificate"

    def verify(self, bundle: Bundle, digests: Mapping[str, str]) -> Signer:
        from .certificates import name_of, require_chain_today, signing_certificate
        from .library import verify_certificate

        certificate = signing_certificate(bundle.certificates[0])
        require_chain_today(bundle.certificates, x509.load_pem_x509_certificates(self.authorities))
        verify_certificate(self.authorities, bundle.content, digests)
        return Signer("certificate", name_of(certificate), self.file)


@dataclass(frozen=True)
class SigstoreRoot:
    """An identity for which an issuer vouches, such as a workflow on GitHub.

    Args:
        trust_config: Sigstore's ClientTrustConfig in JSON: certificates and logs to go by, without a network; None asks
            Sigstore's public instance.
    """

    file: str
    identity: str
    issuer: str
    trust_config: bytes | None
    kind: Kind = "sigstore"

    def verify(self, bundle: Bundle, digests: Mapping[str, str]) -> Signer:
        from .library import verify_sigstore

        verify_sigstore(self.identity, self.issuer, self.trust_config, bundle.content, digests)
        return Signer("sigstore", self.identity, self.file)


class _Identity(StrictModel):
    """A file `*.yaml`."""

    identity: Annotated[str, Field(pattern=r"^\S{1,512}$")]
    issuer: Annotated[str, Field(pattern=r"^https?://\S{1,512}$")]  # an empty one would be any
    trust_config: Annotated[str, Field(pattern=r"^[^/]+$")] | None = None


def read_roots(place: Path) -> tuple[Root, ...]:
    """Everybody whom `*.pem` (public keys), `*.crt` (authorities) and `*.yaml` (identities) in folder `place` trust,
    by name, or whom the one file `place` trusts.

    Raises ConfigError with every fault: files that cannot be used, and those that others may write.
    """
    try:
        found = [place] if place.is_file() else place.iterdir()
        files = sorted(path for path in found if path.suffix in _READERS and not path.name.startswith("."))
        fault = ownership_fault(place)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _unfit(place, f"cannot be read: {error.strerror}") from error
    if len(files) > _MAX_ROOTS:
        fault = Fault(str(place), f"has {len(files)} files, at most {_MAX_ROOTS}")
    if fault:
        raise ConfigError([fault], "trust roots")
    roots: list[Root] = []
    faults: list[Fault] = []
    for path in files:
        try:
            roots.append(_READERS[path.suffix](path))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults, "trust roots")
    return tuple(roots)


def _content(path: Path) -> bytes:
    """Of a file that nobody else can have written."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        fault = ownership_fault(path)
    except OSError as error:
        fault = Fault(str(path), f"cannot be read: {error.strerror}")
    else:
        if len(content) > MAX_BYTES:
            fault = Fault(str(path), f"is larger than {MAX_BYTES >> 10} KiB")
    if fault:
        raise ConfigError([fault])
    return content


def _key(path: Path) -> Root:
    content = _content(path)
    if b"PRIVATE KEY" in content:
        raise _unfit(path, "is a private key, which no device should have: put the public one here")
    if b"CERTIFICATE" in content:
        raise _unfit(path, "is a certificate: one of an authority is called *.crt")
    if content.count(b"-----BEGIN ") > 1:
        raise _unfit(path, "has more than one key: give each a file")
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unfit(path, "is no public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise _unfit(path, "is not an elliptic key on P-256, P-384 or P-521")
    return KeyRoot(path.name, public_pem(key))


def _certificates(path: Path) -> Root:
    content = _content(path)
    try:
        x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise _unfit(path, "has no certificate in PEM, or a damaged one") from error
    return CertificateRoot(path.name, content)


def _identity(path: Path) -> Root:
    try:
        data = parse_yaml(_content(path))
    except ValueError as error:
        raise _unfit(path, f"cannot be read: {printable(error)}") from error
    if not isinstance(data, dict):
        raise _unfit(path, "has no `identity` and `issuer`")
    try:
        said = parse(_Identity, data, subject="", error=ConfigError)
    except ConfigError as error:
        raise _unfit(path, str(error)) from error
    config = _content(path.parent / said.trust_config) if said.trust_config else None
    return SigstoreRoot(path.name, said.identity, said.issuer, config)


def _unfit(path: Path, reason: str) -> ConfigError:
    return ConfigError([Fault(str(path), reason)])


_READERS: dict[str, Callable[[Path], Root]] = {".pem": _key, ".crt": _certificates, ".yaml": _identity}


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key in the one PEM that `key_digest` is of."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
