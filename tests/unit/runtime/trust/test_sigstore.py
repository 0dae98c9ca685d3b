"""Identities of Sigstore, against an instance of the tests' own; the public one is not to be reached from tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from signing import make_key, payload_of
from sigstore_instance import SigstoreInstance

from runtime.errors import NotTrusted
from runtime.trust.roots import Signer
from runtime.trust.trust import Trust

DIGESTS = {"models/decoder/v/build.json": "1" * 64}
EMAIL, ISSUER = "ci@fleet.example", "https://issuer.invalid"


@pytest.fixture(scope="module")
def sigstore() -> SigstoreInstance:
    return SigstoreInstance()


@pytest.fixture
def signature(sigstore: SigstoreInstance, tmp_path: Path) -> bytes:
    return sigstore.sign(payload_of(make_key(tmp_path, "k"), DIGESTS), email=EMAIL, issuer=ISSUER)


def trusting(folder: Path, trust_config: bytes | None, email: str = EMAIL, issuer: str = ISSUER) -> Trust:
    (folder / "trust.d").mkdir(exist_ok=True)
    lines = [f"identity: {email}", f"issuer: {issuer}"]
    if trust_config is not None:
        (folder / "trust.d/sigstore.json").write_bytes(trust_config)
        lines.append("trust_config: sigstore.json")
    (folder / "trust.d/ci.yaml").write_text("\n".join(lines))
    return Trust.read(folder / "trust.d")


def test_an_identity_counts(tmp_path: Path, sigstore: SigstoreInstance, signature: bytes) -> None:
    """Without a network, as the file names what to go by."""
    trust = trusting(tmp_path, sigstore.trust_config)
    assert trust.verify_digests("v", signature, DIGESTS) == Signer("sigstore", EMAIL, "ci.yaml")


@pytest.mark.parametrize(
    ("email", "issuer", "says"),
    [
        ("other@fleet.example", ISSUER, "SANs do not match other@fleet.example; actual SANs: {'ci@fleet.example'}"),
        (EMAIL, "https://other.invalid", "OIDCIssuer does not match"),
    ],
)
def test_another_identity_does_not(
    tmp_path: Path, sigstore: SigstoreInstance, signature: bytes, email: str, issuer: str, says: str
) -> None:
    """Nor the same one, vouched for by somebody else."""
    trust = trusting(tmp_path, sigstore.trust_config, email, issuer)
    with pytest.raises(NotTrusted, match="with a certificate of Sigstore, but nothing in") as raised:
        trust.verify_digests("v", signature, DIGESTS)
    assert says in str(raised.value)


def test_another_instance_does_not(tmp_path: Path, signature: bytes) -> None:
    trust = trusting(tmp_path, SigstoreInstance().trust_config)
    with pytest.raises(NotTrusted, match=r"ci\.yaml: failed to build timestamp certificate chain"):
        trust.verify_digests("v", signature, DIGESTS)


def test_the_same_identity_for_other_files_does_not(
    tmp_path: Path, sigstore: SigstoreInstance, signature: bytes
) -> None:
    trust = trusting(tmp_path, sigstore.trust_config)
    with pytest.raises(NotTrusted, match="is not what was signed"):
        trust.verify_digests("v", signature, {"models/decoder/v/build.json": "2" * 64})


def test_a_config_that_is_none_is_a_refusal(tmp_path: Path, signature: bytes) -> None:
    with pytest.raises(NotTrusted, match=r"ci\.yaml: "):
        trusting(tmp_path, b"{}").verify_digests("v", signature, DIGESTS)
