"""What a signature says of itself, read strictly, before anybody looks whether it is true.

A signature is a Sigstore bundle with a DSSE envelope around an in-toto statement, which has the SHA-256 of every file.
OpenSSF model signing writes it so: https://github.com/sigstore/model-transparency/blob/main/docs/model_signing_format.md
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from ..errors import printable

MAX_BYTES = 1 << 20
"""Of a signature or a trust root; a package of 1000 files has a signature of some 250 KB."""

Kind = Literal["key", "certificate", "sigstore"]

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_DIGEST_CHARS = 64


class Unfit(Exception):
    """A signature that is none, or that a trust root does not vouch for."""


@dataclass(frozen=True)
class Bundle:
    """A signature that was read, and is not verified.

    Args:
        content: for the library. Of Sigstore's it is the file; of others it is made anew of what was read here.
        kind: what it claims to be signed with.
        signer: the digest of the key in hex, for one that is signed with a key alone; else empty.
        certificates: in DER, the signer's first; none for one that is signed with a key alone.
        payload: what is signed.
        signature: over the payload.
        digests: of the files that it is for: SHA-256 in hex, by path.
    """

    content: bytes
    kind: Kind
    signer: str
    certificates: tuple[bytes, ...]
    payload: bytes
    signature: bytes
    digests: Mapping[str, str]


def read_bundle(content: bytes) -> Bundle:
    """Raises Unfit for what is not a bundle of the form that this version of edgeqwen writes."""
    if len(content) > MAX_BYTES:
        raise Unfit(f"is larger than {MAX_BYTES >> 10} KiB")
    try:
        return _parse(content)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise Unfit("is damaged, or of something else than a model") from error


def _parse(content: bytes) -> Bundle:
    """Raises all that JSON of another shape can make Python raise, or Unfit for another kind of bundle."""
    bundle = json.loads(content)
    envelope = bundle["dsseEnvelope"]
    payload = _decoded(envelope["payload"])
    statement = json.loads(payload)
    if (bundle["mediaType"], envelope["payloadType"]) != (_MEDIA_TYPE, _PAYLOAD_TYPE):
        raise Unfit("is a bundle of another version, or not of a model: sign the package again")
    if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
        raise Unfit("is not of a model, or of a version before 1.0 of model signing: sign the package again")
    [signature] = envelope["signatures"]
    kind, signer, certificates = _material(bundle["verificationMaterial"])
    made = _decoded(signature["sig"])
    if kind != "sigstore":
        content = _written(signer, certificates, payload, made)
    return Bundle(content, kind, signer, certificates, payload, made, _digests(statement["predicate"]))


def _written(signer: str, certificates: tuple[bytes, ...], payload: bytes, signature: bytes) -> bytes:
    """A bundle with nothing else in it, so that nobody can find another certificate there than was looked at here."""
    material: dict[str, object] = {"tlogEntries": []}
    if certificates:
        material["x509CertificateChain"] = {"certificates": [{"rawBytes": _encoded(each)} for each in certificates]}
    else:
        material["publicKey"] = {"hint": signer}
    envelope = {
        "payload": _encoded(payload),
        "payloadType": _PAYLOAD_TYPE,
        "signatures": [{"sig": _encoded(signature), "keyid": ""}],
    }
    bundle = {"mediaType": _MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return json.dumps(bundle).encode()


def _material(material: Mapping[str, Any]) -> tuple[Kind, str, tuple[bytes, ...]]:
    if "publicKey" in material:
        hint = material["publicKey"]["hint"]
        if not (isinstance(hint, str) and len(hint) == _DIGEST_CHARS):
            raise Unfit("does not say whose key it is of: sign the package again")
        return "key", hint, ()
    if "x509CertificateChain" in material:
        first, *others = (_decoded(each["rawBytes"]) for each in material["x509CertificateChain"]["certificates"])
        return "certificate", "", (first, *others)
    return "sigstore", "", (_decoded(material["certificate"]["rawBytes"]),)


def _digests(predicate: Mapping[str, Any]) -> dict[str, str]:
    digests: dict[str, str] = {}
    for resource in predicate["resources"]:
        name, digest = resource["name"], resource["digest"]
        if resource["algorithm"] != "sha256":
            raise Unfit("has digests that are not SHA-256: sign the package again")
        if name in digests:
            raise Unfit("names a file twice")
        if not (isinstance(name, str) and isinstance(digest, str)):
            raise TypeError("names and digests are text")
        digests[name] = digest
    return digests


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError("base64 is text")
    return base64.b64decode(text, validate=True)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def require_same_files(bundle: Bundle, digests: Mapping[str, str]) -> None:
    """Raises Unfit unless the bundle is for exactly these files: SHA-256 in hex, by path."""
    found = (
        (set(digests) - set(bundle.digests), "is not signed"),
        (set(bundle.digests) - set(digests), "is signed and missing"),
        ({name for name, digest in digests.items() if bundle.digests.get(name) != digest}, "is not what was signed"),
    )
    for names, fault in found:
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise Unfit(f"is for other files: {printable(min(names))} {fault}{more}")


def require_plain(digests: Mapping[str, str]) -> None:
    """Raises Unfit if a path has several spellings or leads out of the package, or a digest is no SHA-256 in hex."""
    for name, digest in digests.items():
        path = PurePosixPath(name)
        is_inside = path.parts and not path.is_absolute() and ".." not in path.parts
        if not (is_inside and str(path) == name and name.isprintable()):
            raise Unfit(f"cannot be for {printable(name)}, which is no path in a package")
        if len(digest) != _DIGEST_CHARS or not set(digest) <= set("0123456789abcdef"):
            raise Unfit(f"cannot be for {printable(name)}, of which no SHA-256 is known")


def key_digest(public_key_pem: bytes) -> str:
    """How bundles name a key: SHA-256 in hex of its PEM."""
    return hashlib.sha256(public_key_pem).hexdigest()
