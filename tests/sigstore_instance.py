"""A Sigstore of the tests' own: an authority, a log of its certificates and one of signatures, all in this process.

It signs as Fulcio and Rekor (version 1) do, so that verification runs as it does against the public instance, without a
network: https://docs.sigstore.dev/about/bundle/
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
SCT_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Log:
    """A key, and how logs name it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.id = hashlib.sha256(self.public).digest()

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    def described(self, url: str) -> dict[str, object]:
        """As a trusted root has it."""
        return {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": _b64(self.public),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": "2020-01-01T00:00:00Z"},
            },
            "logId": {"keyId": _b64(self.id)},
        }


class SigstoreInstance:
    """Signs payloads for whoever it is told they are of."""

    def __init__(self) -> None:
        self._certificates, self._signatures = Log(), Log()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests' sigstore")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, self._name, self._key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=365))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(certificates=True), critical=True)
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
        )
        self._authority = builder.sign(self._key, hashes.SHA256())

    @property
    def trust_config(self) -> bytes:
        """A ClientTrustConfig, of which only the trusted root matters to who verifies."""
        root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self._signatures.described("https://rekor.invalid")],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "tests", "commonName": "tests' sigstore"},
                    "uri": "https://fulcio.invalid",
                    "certChain": {"certificates": [{"rawBytes": _b64(_der(self._authority))}]},
                    "validFor": {"start": "2020-01-01T00:00:00Z"},
                }
            ],
            "ctlogs": [self._certificates.described("https://ctfe.invalid")],
            "timestampAuthorities": [],
        }
        signing = {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}
        services = {"caUrls": [], "oidcUrls": [], "rekorTlogUrls": [], "tsaUrls": []}
        selectors = {"rekorTlogConfig": {"selector": "ANY"}, "tsaConfig": {"selector": "ANY"}}
        kind = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
        return json.dumps(
            {"mediaType": kind, "trustedRoot": root, "signingConfig": signing | services | selectors}
        ).encode()

    def sign(self, payload: bytes, *, email: str, issuer: str) -> bytes:
        """A bundle of `payload`, by a key that is forgotten at once."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(key, email, issuer)
        message = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
        signature = key.sign(message, ec.ECDSA(hashes.SHA256()))
        material = {
            "certificate": {"rawBytes": _b64(_der(certificate))},
            "tlogEntries": [self._entry(payload, signature, certificate)],
        }
        envelope = {"payload": _b64(payload), "payloadType": PAYLOAD_TYPE, "signatures": [{"sig": _b64(signature)}]}
        kind = "application/vnd.dev.sigstore.bundle.v0.3+json"
        return json.dumps({"mediaType": kind, "verificationMaterial": material, "dsseEnvelope": envelope}).encode()

    def _certificate(self, key: ec.EllipticCurvePrivateKey, email: str, issuer: str) -> x509.Certificate:
        """RFC 6962: logged without the log's answer, then signed with it."""
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, x509.Name([]), key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(minutes=5))
        builder = builder.add_extension(_key_usage(certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(email)]), critical=True)
        builder = builder.add_extension(x509.UnrecognizedExtension(ISSUER_EXTENSION, issuer.encode()), critical=False)
        logged = builder.sign(self._key, hashes.SHA256()).tbs_certificate_bytes
        at_ms = int(now.timestamp() * 1000)
        issued_by = hashlib.sha256(
            self._key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).digest()
        entry = issued_by + struct.pack("!I", len(logged))[1:] + logged
        signature = self._certificates.sign(struct.pack("!BBQH", 0, 0, at_ms, 1) + entry + b"\0\0")
        sct = struct.pack("!B32sQH", 0, self._certificates.id, at_ms, 0)
        sct += struct.pack("!BBH", 4, 3, len(signature)) + signature  # SHA-256, ECDSA
        scts = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        octets = bytes([0x04, len(scts)]) + scts
        assert len(scts) < 128  # a length of one byte in DER
        return builder.add_extension(x509.UnrecognizedExtension(SCT_EXTENSION, octets), critical=False).sign(
            self._key, hashes.SHA256()
        )

    def _entry(self, payload: bytes, signature: bytes, certificate: x509.Certificate) -> dict[str, object]:
        """The only one of a log, so that its root is its leaf."""
        spec = {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(signature).hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [
                {
                    "signature": _b64(signature),
                    "verifier": _b64(certificate.public_bytes(serialization.Encoding.PEM)),
                }
            ],
        }
        body = json.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}).encode()
        root = hashlib.sha256(b"\0" + body).digest()
        now_s = int(datetime.now(UTC).timestamp())
        promised = {"body": _b64(body), "integratedTime": now_s, "logID": self._signatures.id.hex(), "logIndex": 0}
        canonical = json.dumps(promised, sort_keys=True, separators=(",", ":")).encode()
        note = f"rekor.invalid\n1\n{_b64(root)}\n"
        signed_note = _b64(self._signatures.id[:4] + self._signatures.sign(note.encode()))
        return {
            "logIndex": "0",
            "logId": {"keyId": _b64(self._signatures.id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(now_s),
            "inclusionPromise": {"signedEntryTimestamp": _b64(self._signatures.sign(canonical))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": _b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n\u2014 rekor.invalid {signed_note}\n"},
            },
            "canonicalizedBody": _b64(body),
        }


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()
