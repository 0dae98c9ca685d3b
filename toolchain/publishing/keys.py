"""Private keys that packages are signed with, and the public ones that devices trust."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runtime.errors import SigningError
from runtime.trust.bundle import Unfit, key_digest
from runtime.trust.certificates import signing_certificate
from runtime.trust.roots import CURVES, public_pem

Curve = Literal["p256", "p384", "p521"]
Ask = Callable[[], bytes | None]
"""Gets a passphrase from somewhere; None if there is none to be had."""

_CURVES: dict[Curve, ec.EllipticCurve] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


@dataclass(frozen=True)
class KeyPair:
    """Two new files. `digest` is how signatures name the key: SHA-256 in hex of the public one."""

    private: Path
    public: Path
    digest: str


def make_key_pair(name: Path, curve: Curve, passphrase: bytes | None) -> KeyPair:
    """Writes NAME.key, mode 0600, encrypted if there is a passphrase, and NAME.pem.

    Raises SigningError rather than to overwrite: a key that is lost cannot be had again.
    """
    private, public = (name.with_name(f"{name.name}{suffix}") for suffix in (".key", ".pem"))
    key = ec.generate_private_key(_CURVES[curve])
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    shown = public_pem(key.public_key())
    for path in (private, public):
        if path.exists():
            raise SigningError(f"{path} is there already: remove it, or choose another name")
    made: list[Path] = []
    for path, content, mode in ((private, secret, 0o600), (public, shown, 0o644)):
        try:
            path.touch(mode, exist_ok=False)
            made.append(path)
            path.write_bytes(content)
        except OSError as error:
            for unfit in made:
                unfit.unlink()
            raise SigningError(f"cannot write {path}: {error.strerror}") from error
    return KeyPair(private, public, key_digest(shown))


def read_key(path: Path, ask: Ask) -> ec.EllipticCurvePrivateKey:
    """A private key in PEM. An encrypted one has its passphrase asked for. Raises SigningError."""
    content = _read(path)
    try:
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except TypeError as error:  # it is encrypted
            if not (passphrase := ask()):
                raise SigningError(
                    f"{path} has a passphrase: give it with --passphrase-file or EDGEQWEN_PASSPHRASE"
                ) from error
            key = serialization.load_pem_private_key(content, passphrase)
    except (ValueError, UnsupportedAlgorithm) as error:
        wrong = ", or the passphrase is not its own" if b"ENCRYPTED" in content else ""
        raise SigningError(f"{path} is no private key in PEM{wrong}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise SigningError(
            f"{path} is not an elliptic key on P-256, P-384 or P-521: `edgeqwen-compile keygen` makes one"
        )
    return key


def read_certificates(path: Path, key: ec.EllipticCurvePrivateKey) -> tuple[x509.Certificate, ...]:
    """The key's certificate in PEM, with those that lead to its authority behind it.

    Raises SigningError for one that devices would refuse: it must be for signing, and valid now.
    """
    try:
        first, *others = x509.load_pem_x509_certificates(_read(path))
        signing_certificate(first.public_bytes(serialization.Encoding.DER))
    except ValueError as error:
        raise SigningError(f"{path} has no certificate in PEM, or a damaged one") from error
    except Unfit as error:
        raise SigningError(f"{path} cannot be used: {error}") from error
    if first.public_key() != key.public_key():
        raise SigningError(f"{path} cannot be used: its first certificate is of another key")
    if (end := first.not_valid_after_utc) < datetime.now(UTC):
        raise SigningError(f"{path} cannot be used: its first certificate expired on {end:%Y-%m-%d}")
    return first, *others


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningError(f"{path} cannot be read: {error.strerror}") from error
