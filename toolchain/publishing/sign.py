"""Signs packages: one signature a variant, over every file that a device has of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runtime.disk import LocalDisk
from runtime.errors import SigningError, printable
from runtime.package import VARIANTS, Package, open_variants, read_at_most
from runtime.trust.bundle import MAX_BYTES, Bundle, Unfit, key_digest, read_bundle, require_plain, require_same_files
from runtime.trust.certificates import name_of
from runtime.trust.library import KnownDigests, in_memory, signed
from runtime.trust.roots import public_pem

_HASHES: dict[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
"""By the bits of a curve, as model signing chooses them."""


class Signing(Protocol):
    """What packages are signed with."""

    @property
    def name(self) -> str:
        """Who signs, in words."""

    def has_made(self, bundle: Bundle) -> bool:
        """Whether `bundle` is a valid signature of this signer's."""

    def sign(self, known: KnownDigests) -> bytes:
        """A bundle. Raises SigningError."""


@dataclass(frozen=True)
class KeySigning:
    """A private key and, for those who trust an authority, its certificate with those that lead there behind it."""

    key: ec.EllipticCurvePrivateKey
    certificates: tuple[x509.Certificate, ...] = ()

    @property
    def name(self) -> str:
        if self.certificates:
            return f"the certificate {name_of(self.certificates[0])}"
        return f"the key sha256:{self._digest}"

    @property
    def _digest(self) -> str:
        return key_digest(public_pem(self.key.public_key()))

    @property
    def _chain(self) -> tuple[bytes, ...]:
        """What a bundle has of the certificates. The library wants one behind the first: it may be the same."""
        chain = tuple(each.public_bytes(serialization.Encoding.DER) for each in self.certificates)
        return chain * 2 if len(chain) == 1 else chain

    def has_made(self, bundle: Bundle) -> bool:
        if (bundle.signer, bundle.certificates) != ("" if self.certificates else self._digest, self._chain):
            return False
        public_key = self.key.public_key()
        try:
            public_key.verify(bundle.signature, _to_sign(bundle.payload), ec.ECDSA(_HASHES[public_key.curve.key_size]))
        except InvalidSignature:
            return False
        return True

    def sign(self, known: KnownDigests) -> bytes:
        secret = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with in_memory(secret) as key:
            if not self.certificates:
                return signed(lambda config: config.use_elliptic_key_signer(private_key=key), known)
            first, *others = map(_pem, self.certificates)
            with in_memory(first) as certificate, in_memory(b"".join(others) or first) as chain:
                return signed(
                    lambda config: config.use_certificate_signer(
                        private_key=key, signing_certificate=certificate, certificate_chain=[chain]
                    ),
                    known,
                )


@dataclass(frozen=True)
class SigstoreSigning:
    """Sigstore: an identity that an OpenID Connect issuer vouches for, and a public log. Needs a network.

    Args:
        token: of the identity; None takes that of the CI job this runs in, or opens a browser.
        trust_config: of an instance of one's own; None is the public one.
    """

    token: str | None = None
    trust_config: Path | None = None

    @property
    def name(self) -> str:
        return "Sigstore"

    def has_made(self, bundle: Bundle) -> bool:
        """Never known: who would sign is asked when it happens."""
        return False

    def sign(self, known: KnownDigests) -> bytes:
        try:
            return signed(
                lambda config: config.use_sigstore_signer(
                    identity_token=self.token, use_ambient_credentials=True, trust_config=self.trust_config
                ),
                known,
            )
        except Exception as error:  # of any of the libraries and services that it takes
            raise SigningError(f"Sigstore did not sign: {printable(error) or type(error).__name__}") from error


@dataclass(frozen=True)
class SignedVariant:
    """A variant that has a signature; `changed` if it had none of this signer's before."""

    variant: str
    changed: bool


def sign_package(root: Path, signing: Signing, progress: Callable[[int], None] = lambda _: None) -> list[SignedVariant]:
    """Signs each variant of the package at `root`, unless it has a valid signature of this signer's.

    Every file is read before any signature is written, and `progress` is told of every few bytes. Nothing else is
    written. Raises PackageError or SigningError.
    """
    packages = open_variants(root)
    digests = [_digests(package, progress) for package in packages]
    signatures = [
        None if _is_signed(package, its, signing) else signing.sign(_known(package, its, packages))
        for package, its in zip(packages, digests, strict=True)
    ]
    for package, signature in zip(packages, signatures, strict=True):
        if signature is not None:
            _write(package.signature_file, signature)
    return [
        SignedVariant(package.variant_dir.name, signature is not None)
        for package, signature in zip(packages, signatures, strict=True)
    ]


def _digests(package: Package, progress: Callable[[int], None]) -> Mapping[str, str]:
    found = package.digests(progress)
    try:
        require_plain(found)
    except Unfit as error:
        raise SigningError(f"{package.root} cannot be signed: a signature {error}") from error
    return found


def _known(package: Package, digests: Mapping[str, str], packages: Sequence[Package]) -> KnownDigests:
    others = [each.variant_dir.name for each in packages if each is not package]
    name = f"{package.build.name}-{package.build.version}-{package.variant_dir.name}"
    return KnownDigests(name, digests, [(VARIANTS / other).as_posix() for other in others])


def _is_signed(package: Package, digests: Mapping[str, str], signing: Signing) -> bool:
    try:
        bundle = read_bundle(read_at_most(package.signature_file, MAX_BYTES + 1))
        require_same_files(bundle, digests)
    except (OSError, Unfit):
        return False
    return signing.has_made(bundle)


def _write(path: Path, content: bytes) -> None:
    """The file is there whole, on the disk, or as it was; readable by the daemon's user, whoever signs."""
    disk, unfinished = LocalDisk(), path.with_suffix(".part")
    try:
        if not path.parent.is_dir():
            disk.mkdir(path.parent)
        disk.write(unfinished, content)
        disk.fsync(unfinished)
        disk.rename(unfinished, path)
        disk.sync_dir(path.parent)
    except OSError as error:
        raise SigningError(f"cannot write {path}: {error.strerror}") from error


def _to_sign(payload: bytes) -> bytes:
    """What is signed of an envelope: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md"""
    kind = b"application/vnd.in-toto+json"
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
