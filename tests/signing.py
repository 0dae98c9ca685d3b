"""Signatures of packages as their publishers make them, without the toolchain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from certificates import Pair
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runtime.package import Package, open_variants
from runtime.trust.bundle import read_bundle
from runtime.trust.library import KnownDigests, signed


def make_key(folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> Path:
    """Writes NAME.key and NAME.pem; returns the private one's path."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private


def by_key(key: Path, digests: Mapping[str, str]) -> bytes:
    return signed(lambda config: config.use_elliptic_key_signer(private_key=key), KnownDigests("t", digests))


def by_certificate(pair: Pair, chain: Path, digests: Mapping[str, str]) -> bytes:
    return signed(
        lambda config: config.use_certificate_signer(
            private_key=pair.key, signing_certificate=pair.certificate, certificate_chain=[chain]
        ),
        KnownDigests("t", digests),
    )


def payload_of(key: Path, digests: Mapping[str, str]) -> bytes:
    """What anybody signs of these digests."""
    return read_bundle(by_key(key, digests)).payload


def write_signature(package: Package, signature: bytes) -> None:
    package.signature_file.parent.mkdir(exist_ok=True)
    package.signature_file.write_bytes(signature)


def sign_package(root: Path, key: Path) -> Path:
    """Signs every variant."""
    for package in open_variants(root):
        write_signature(package, by_key(key, package.digests()))
    return root


def trust_folder(folder: Path, *files: Path) -> Path:
    """A folder of trust roots with these; certificates are for authorities there."""
    folder.mkdir(exist_ok=True)
    for file in files:
        content = file.read_bytes()
        (folder / (f"{file.stem}.crt" if b"CERTIFICATE" in content else file.name)).write_bytes(content)
    return folder
