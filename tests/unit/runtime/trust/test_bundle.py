"""Hostile signatures: whatever they hold, they are refused as signatures are, or are what they were."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from hypothesis import given, settings
from hypothesis import strategies as st
from signing import by_certificate, by_key, make_key, payload_of, trust_folder
from sigstore_instance import SigstoreInstance

from runtime.errors import NotTrusted, printable
from runtime.trust.bundle import Unfit, read_bundle
from runtime.trust.trust import Trust

DIGESTS = {"configs/tokenizer.json": "0" * 64, "models/decoder/v/build.json": "1" * 64}
EMAIL, ISSUER = "ci@fleet.example", "https://issuer.invalid"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)

Signed = tuple[Trust, dict[str, bytes]]


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """A signature of each kind, and who trusts all of them."""
    folder = tmp_path_factory.mktemp("signed")
    key, authority, sigstore = make_key(folder, "fleet"), Authority(folder), SigstoreInstance()
    trusted = trust_folder(folder / "trust.d", key.with_suffix(".pem"), authority.file)
    (trusted / "sigstore.json").write_bytes(sigstore.trust_config)
    (trusted / "ci.yaml").write_text(f"identity: {EMAIL}\nissuer: {ISSUER}\ntrust_config: sigstore.json\n")
    certificate = authority.issue("release", for_code=True)
    return Trust.read(trusted), {
        "key": by_key(key, DIGESTS),
        "certificate": by_certificate(certificate, authority.file, DIGESTS),
        "sigstore": sigstore.sign(payload_of(key, DIGESTS), email=EMAIL, issuer=ISSUER),
    }


KINDS = pytest.mark.parametrize("kind", ["key", "certificate", "sigstore"])


def refused_or_as_it_was(signed: Signed, kind: str, signature: bytes) -> None:
    trust, good = signed
    try:
        found = trust.verify_digests("v", signature, DIGESTS)
    except NotTrusted as error:
        found, said = None, str(error)
    else:
        said = ""
    assert said.isprintable()
    assert said or found == trust.verify_digests("v", good[kind], DIGESTS)


@KINDS
def test_each_kind_is_verified(signed: Signed, kind: str) -> None:
    trust, good = signed
    assert trust.verify_digests("v", good[kind], DIGESTS).kind == kind


@KINDS
@settings(max_examples=60)
@given(data=st.data())
def test_other_bytes(signed: Signed, kind: str, data: st.DataObject) -> None:
    """Some bytes are others, or missing, or the end is."""
    content = bytearray(signed[1][kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    refused_or_as_it_was(signed, kind, bytes(content[: data.draw(st.integers(0, len(content)))]))


@KINDS
@settings(max_examples=60)
@given(data=st.data())
def test_other_json(signed: Signed, kind: str, data: st.DataObject) -> None:
    """Something anywhere in it is something else, of whatever type, or is not there."""
    bundle = json.loads(signed[1][kind])
    places = list(_places(bundle))
    holder, key = data.draw(st.sampled_from(places))
    if data.draw(st.booleans()):
        holder[key] = data.draw(JSON)
    else:
        del holder[key]
    refused_or_as_it_was(signed, kind, json.dumps(bundle).encode())


@KINDS
@settings(max_examples=60)
@given(data=st.data())
def test_other_statements(signed: Signed, kind: str, data: st.DataObject) -> None:
    """What is signed is JSON in itself. Changed, it is refused always: it is not what was signed."""
    bundle = json.loads(signed[1][kind])
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    before = json.dumps(statement)
    holder, key = data.draw(st.sampled_from(list(_places(statement))))
    holder[key] = data.draw(JSON)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    if json.dumps(statement) != before:
        with pytest.raises(NotTrusted):
            signed[0].verify_digests("v", json.dumps(bundle).encode(), DIGESTS)


def _places(value: Any) -> Any:
    """Every place in JSON that has a value: what holds it, and under which key."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else(content: bytes) -> None:
    """Bytes and JSON of every other shape are no signature."""
    with pytest.raises(Unfit):
        read_bundle(content)


NESTED: dict[str, Callable[[dict[str, Any]], object]] = {
    "outside": lambda bundle: bundle.update(more="@"),
    "in the statement": lambda bundle: bundle["dsseEnvelope"].update(
        payload=base64.b64encode(b'{"_type":' + b"[" * 300_000).decode()
    ),
}


@KINDS
@pytest.mark.parametrize("change", NESTED.values(), ids=NESTED)
def test_nesting_without_an_end(signed: Signed, kind: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Deeper than Python goes."""
    bundle = json.loads(signed[1][kind])
    change(bundle)
    content = json.dumps(bundle).replace('"@"', "[" * 300_000 + "]" * 300_000)
    with pytest.raises(NotTrusted):
        signed[0].verify_digests("v", content.encode(), DIGESTS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b["verificationMaterial"]["publicKey"].clear(), "is damaged"),
        (lambda b: b["verificationMaterial"]["publicKey"].update(hint=""), "does not say whose key it is of"),
        (lambda b: b["dsseEnvelope"].update(signatures=[]), "is damaged"),
        (lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]), "is damaged"),
        (lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle.v9+json"), "is a bundle of another version"),
        (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), "is a bundle of another version"),
    ],
)
def test_bundles_of_other_forms(
    signed: Signed, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object], says: str
) -> None:
    """Those that the library takes from its first versions too; it would print a warning among our results."""
    bundle = json.loads(signed[1]["key"])
    change(bundle)
    with pytest.raises(NotTrusted, match=f"the signature of variant v {says}"):
        signed[0].verify_digests("v", json.dumps(bundle).encode(), DIGESTS)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "is not of a model"),
        (lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"), "of a version before 1.0"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="blake2"), "has digests that are not SHA-256"),
        (lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]), "names a file twice"),
    ],
)
def test_statements_of_other_forms(signed: Signed, change: Callable[[dict[str, Any]], object], says: str) -> None:
    """Even if somebody trusted had signed them."""
    bundle = json.loads(signed[1]["key"])
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    with pytest.raises(NotTrusted, match=says):
        signed[0].verify_digests("v", json.dumps(bundle).encode(), DIGESTS)


@given(st.text(max_size=400))
def test_what_others_wrote_can_be_shown(text: str) -> None:
    """One line, short, and nothing that a terminal would obey."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 160


def test_names_of_files_are_shown_so(signed: Signed, tmp_path: Path) -> None:
    """A path that somebody else chose is part of the error."""
    key = make_key(tmp_path, "other")
    signature = by_key(key, {"a\n\x1b[31mred": "0" * 64})
    with pytest.raises(NotTrusted, match=r"for other files: a \?\[31mred is signed and missing"):
        signed[0].verify_digests("v", signature, {})
