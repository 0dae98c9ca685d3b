"""The door to OpenSSF's model signing library. It hashes no files here: it is given digests that somebody has computed.

Importing it takes most of a second and 60 MB, so this module is imported when something is to be signed or verified.
What is not verified raises whatever the library, or one below it, makes of it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath

from model_signing import hashing, manifest, signing, verifying

# The one name that no public module of 1.1 has: manifests are made of these.
from model_signing._hashing.hashing import Digest

from ..package import SIGNATURES

for _name in ("model_signing", "sigstore", "tuf"):  # what they have to say, the error says
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class KnownDigests(hashing.Config):
    """Files whose digests are known, in the place of a folder to hash.

    Args:
        name: of what the files are, for people who look into the signature.
        digests: SHA-256 in hex, by path from the package's root.
        ignored: paths of the package that the signature is not about, for other verifiers. Ours goes by `digests`.
    """

    def __init__(self, name: str, digests: Mapping[str, str], ignored: Iterable[str] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        items = [
            manifest.FileManifestItem(path=PurePosixPath(path), digest=Digest("sha256", bytes.fromhex(digest)))
            for path, digest in digests.items()
        ]
        described = {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": [SIGNATURES.as_posix(), *ignored],
        }
        self._manifest = manifest.Manifest(name, items, manifest.SerializationType.from_args(described))

    def hash(self, model_path: object, *, files_to_hash: object = None) -> manifest.Manifest:
        """What the library would have found on disk."""
        return self._manifest


def verify_key(public_key: bytes, signature: bytes, digests: Mapping[str, str]) -> None:
    """Returns if `signature` is of these digests, and by the owner of the key (PEM)."""
    with in_memory(public_key) as path:
        _verify(lambda config: config.use_elliptic_key_verifier(public_key=path), signature, digests)


def verify_certificate(authorities: bytes, signature: bytes, digests: Mapping[str, str]) -> None:
    """Returns if `signature` is of these digests, with a certificate that one of the authorities (PEM) signed.

    The library takes the beginning of the certificate for the time, and a TLS server's for one to sign with: the rules
    of `certificates` are stricter.
    """
    with in_memory(authorities) as path:
        _verify(lambda config: config.use_certificate_verifier(certificate_chain=[path]), signature, digests)


def verify_sigstore(
    identity: str, issuer: str, trust_config: bytes | None, signature: bytes, digests: Mapping[str, str]
) -> None:
    """Returns if `signature` is of these digests, and by `identity`, for which `issuer` vouches.

    Without `trust_config`, Sigstore's public instance counts, whose repository is asked over the network what that is.
    """
    with nullcontext() if trust_config is None else in_memory(trust_config) as path:
        _verify(
            lambda config: config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer, trust_config=path),
            signature,
            digests,
        )


def signed(configure: Callable[[signing.Config], object], known: KnownDigests) -> bytes:
    """The signature of what is known, by the signer that `configure` chooses. Raises what the library raises."""
    config = signing.Config().set_hashing_config(known)
    configure(config)
    with in_memory(b"") as path:
        config.sign(Path(), path)
        return path.read_bytes()


@contextmanager
def in_memory(content: bytes) -> Iterator[Path]:
    """A file that is on no disk, for a library that wants to read what was read already."""
    handle = os.memfd_create("edgeqwen-trust")
    try:
        with open(handle, "wb", closefd=False) as file:
            file.write(content)
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _verify(configure: Callable[[verifying.Config], object], signature: bytes, digests: Mapping[str, str]) -> None:
    with in_memory(signature) as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, of what is deprecated
        config = verifying.Config().set_hashing_config(KnownDigests("", digests))
        configure(config)
        config.verify(Path(), path)
