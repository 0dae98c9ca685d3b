"""Packages are trusted if somebody whom a trust root names has signed exactly these files, and else not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from signing import by_key, make_key, sign_package, trust_folder, write_signature
from unit.runtime.tiny_package import edit_build, make_package

from runtime.errors import NotTrusted, PackageCorrupt
from runtime.package import Package, signature_name, variant_files
from runtime.trust.bundle import MAX_BYTES
from runtime.trust.roots import Signer
from runtime.trust.trust import Trust

FILES = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}(/[a-z.]{0,4}[a-z]){0,2}", fullmatch=True),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    min_size=1,
    max_size=6,
)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path, "fleet")


@pytest.fixture
def root(tmp_path: Path, key: Path) -> Path:
    """A signed package of one variant."""
    return sign_package(make_package(tmp_path / "p.ortpackage"), key)


@pytest.fixture
def trust(tmp_path: Path, key: Path) -> Trust:
    return Trust.read(trust_folder(tmp_path / "trust.d", key.with_suffix(".pem")))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trust]:
    """A key, and who trusts it."""
    folder = tmp_path_factory.mktemp("pair")
    key = make_key(folder, "fleet")
    return key, Trust.read(trust_folder(folder / "trust.d", key.with_suffix(".pem")))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_who_signed_is_said(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    """Whichever of the three curves the key is on; from disk, and from digests alone."""
    key = make_key(tmp_path, "fleet", curve)
    package = Package.open(sign_package(make_package(tmp_path / "p"), key))
    trust = Trust.read(trust_folder(tmp_path / "trust.d", key.with_suffix(".pem")))
    signer = trust.verify(package)
    assert (signer.kind, signer.root) == ("key", "fleet.pem")
    assert str(signer) == f"the key {signer.name[:19]}... (fleet.pem)"
    assert trust.verify_digests("board", package.signature_file, package.digests()) == signer
    assert trust.verify_digests("board", package.signature_file.read_bytes(), package.digests()) == signer


def test_every_file_counts(root: Path, trust: Trust) -> None:
    """Another byte in any file, and a file more or less, whether build.json lists it or not."""
    (root / "manifest.json").write_text("{}")
    with pytest.raises(NotTrusted, match=r"of variant board is for other files: manifest\.json is not signed"):
        trust.verify(Package.open(root))
    (root / "manifest.json").unlink()
    edit_build(root, {"version": "9.0.0"})
    with pytest.raises(NotTrusted, match=r"board/build\.json is not what was signed"):
        trust.verify(Package.open(root))
    for name in variant_files(root, "board"):
        digests = Package.open(root).digests()
        with pytest.raises(NotTrusted, match="is not what was signed"):
            trust.verify_digests("board", root / signature_name("board"), digests | {name: "0" * 64})
        del digests[name]
        with pytest.raises(NotTrusted, match="is signed and missing"):
            trust.verify_digests("board", root / signature_name("board"), digests)


def test_a_damaged_file_is_said_to_be_damaged(root: Path, trust: Trust) -> None:
    """Not that somebody else signed it: build.json knows better."""
    (root / "models/decoder/board/serving.onnx").write_bytes(b"grapH")
    with pytest.raises(PackageCorrupt, match=r"serving\.onnx is corrupt"):
        trust.verify(Package.open(root, verify=False))


def test_links_and_devices_are_not_followed(root: Path, trust: Trust, tmp_path: Path) -> None:
    """What a link leads to was not signed, whatever is there now."""
    (root / "configs/more").symlink_to(tmp_path)
    with pytest.raises(PackageCorrupt, match=r"configs/more in .* is neither a file nor a folder"):
        trust.verify(Package.open(root))


@given(signed=FILES, found=FILES)
def test_a_signature_is_of_the_files_it_was_made_of(
    pair: tuple[Path, Trust], signed: dict[str, str], found: dict[str, str]
) -> None:
    """And of no others."""
    key, trust = pair
    signature = by_key(key, signed)
    assert trust.verify_digests("v", signature, signed).kind == "key"
    if found != signed:
        with pytest.raises(NotTrusted):
            trust.verify_digests("v", signature, found)


def test_a_device_needs_only_its_own_variant(tmp_path: Path, key: Path, trust: Trust) -> None:
    """Others, and signatures of others, are not part of it; a folder that is no variant is part of all."""
    root = sign_package(make_package(tmp_path / "two", "a", "b"), key)
    alone = tmp_path / "alone"
    shutil.copytree(root, alone)
    shutil.rmtree(alone / "models/decoder/b")
    (alone / signature_name("b")).unlink()
    assert trust.verify(Package.open(alone)) == trust.verify(Package.open(root, "a"))
    shutil.copytree(root / "models/decoder/b", alone / "models/decoder/b")
    assert trust.verify(Package.open(alone, "a"))
    (alone / "models/decoder/b/build.json").unlink()
    with pytest.raises(NotTrusted, match=r"models/decoder/b/serving\.onnx is not signed"):
        trust.verify(Package.open(alone, "a"))


def test_the_signature_of_one_variant_is_none_of_another(tmp_path: Path, key: Path, trust: Trust) -> None:
    """Though both are alike but for the folder."""
    root = sign_package(make_package(tmp_path / "two", "a", "b"), key)
    shutil.copy(root / signature_name("a"), root / signature_name("b"))
    with pytest.raises(NotTrusted, match="of variant b is for other files"):
        trust.verify(Package.open(root, "b"))


def test_what_is_not_signed_is_not_trusted(tmp_path: Path, trust: Trust) -> None:
    package = Package.open(make_package(tmp_path / "q"))
    with pytest.raises(NotTrusted, match="variant board is not signed"):
        trust.verify(package)
    with pytest.raises(NotTrusted, match="variant board is not signed"):
        trust.verify_digests("board", None, package.digests())


def test_each_root_says_why_it_does_not_vouch(root: Path, tmp_path: Path) -> None:
    """At most four, in the order of their names."""
    keys = [make_key(tmp_path, f"other-{index}").with_suffix(".pem") for index in range(6)]
    with pytest.raises(NotTrusted) as raised:
        Trust.read(trust_folder(tmp_path / "others", *keys)).verify(Package.open(root))
    said = str(raised.value)
    assert said.startswith("variant board is signed by the key ")
    assert "but nothing in " in said
    assert said.count("another key (") == 4
    assert said.index("other-0.pem: another key (") < said.index("other-3.pem: another key (")
    assert said.endswith("; and 2 more")


def test_nobody_is_trusted_where_there_is_no_folder(root: Path, tmp_path: Path) -> None:
    trust = Trust.read(tmp_path / "nowhere")
    assert trust.roots == ()
    with pytest.raises(NotTrusted, match=r"but nobody is trusted: .*nowhere has no \*\.pem"):
        trust.verify(Package.open(root))


def test_keys_are_changed_while_both_count(root: Path, tmp_path: Path, key: Path) -> None:
    """The new key beside the old one, then the packages, then the old key goes."""
    new = make_key(tmp_path, "fleet-new")
    both = Trust.read(trust_folder(tmp_path / "both", key.with_suffix(".pem"), new.with_suffix(".pem")))
    package = Package.open(root)
    assert both.verify(package).root == "fleet.pem"
    write_signature(package, by_key(new, package.digests()))
    assert both.verify(package).root == "fleet-new.pem"
    only_new = Trust.read(trust_folder(tmp_path / "new", new.with_suffix(".pem")))
    assert only_new.verify(package) == both.verify(package)
    write_signature(package, by_key(key, package.digests()))
    with pytest.raises(NotTrusted, match="another key"):
        only_new.verify(package)


def test_whose_key_it_is_cannot_be_claimed(root: Path, tmp_path: Path, key: Path, trust: Trust) -> None:
    """A signature that names the trusted key, and was made with another."""
    package = Package.open(root)
    mine = json.loads(package.signature_file.read_bytes())
    theirs = json.loads(by_key(make_key(tmp_path, "thief"), package.digests()))
    theirs["verificationMaterial"] = mine["verificationMaterial"]
    with pytest.raises(NotTrusted, match=r"fleet\.pem: did not sign it \(InvalidSignature\)"):
        trust.verify_digests("board", json.dumps(theirs).encode(), package.digests())


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../b", "./a", "a//b", "", "."])
def test_a_path_has_one_spelling_and_stays_inside(pair: tuple[Path, Trust], name: str) -> None:
    """Digests that a registry claims are checked before they are compared: two spellings would be one file."""
    key, trust = pair
    with pytest.raises(NotTrusted, match="is no path in a package"):
        trust.verify_digests("v", by_key(key, {name: "0" * 64}), {name: "0" * 64})


@pytest.mark.parametrize("digest", ["", "0" * 63, "G" * 64, "A" * 64, "sha256:" + "0" * 57])
def test_a_digest_is_a_sha256_in_hex(pair: tuple[Path, Trust], digest: str) -> None:
    key, trust = pair
    with pytest.raises(NotTrusted, match="of which no SHA-256 is known"):
        trust.verify_digests("v", by_key(key, {"a": "0" * 64}), {"a": digest})


def test_a_huge_signature_is_not_parsed(pair: tuple[Path, Trust], tmp_path: Path) -> None:
    """From disk no more is read than shows that it is too large."""
    (tmp_path / "huge").touch()
    with (tmp_path / "huge").open("r+b") as file:
        file.truncate(1 << 40)
    for signature in (b" " * (MAX_BYTES + 1), tmp_path / "huge"):
        with pytest.raises(NotTrusted, match="of variant v is larger than 1024 KiB"):
            pair[1].verify_digests("v", signature, {"a": "0" * 64})


def test_signers_of_other_kinds_are_named() -> None:
    assert str(Signer("certificate", "CN=release", "ca.crt")) == "the certificate CN=release (ca.crt)"
    assert str(Signer("sigstore", "ci@fleet.example", "ci.yaml")) == "the identity ci@fleet.example (ci.yaml)"


@pytest.mark.parametrize("variants", [("a",), ("a", "b")])
def test_the_librarys_own_command_accepts_what_is_signed(tmp_path: Path, key: Path, variants: tuple[str, ...]) -> None:
    """`model_signing verify`, on a package as a device has it; and refuses what we refuse."""
    root = sign_package(make_package(tmp_path / "p", *variants), key)
    for other in variants[1:]:
        shutil.rmtree(root / "models/decoder" / other)

    def verify() -> subprocess.CompletedProcess[str]:
        public = key.with_suffix(".pem")
        options = ["--signature", str(root / signature_name("a")), "--public_key", str(public)]
        command = [sys.executable, "-m", "model_signing", "verify", "key", str(root), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = verify()
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr
    (root / "configs/tokenizer.json").write_text("{ }")
    done = verify()
    assert done.returncode == 1
    assert "Hash mismatch for 'configs/tokenizer.json'" in done.stderr
