"""Indexes and manifests: what we write we read, and whatever comes from outside is a package or refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.runtime.oci.remotes import WEIGHTS, package_with

from runtime.errors import PackageCorrupt
from runtime.oci.contents import (
    PACKAGE_TYPE,
    TITLE,
    Contents,
    Offer,
    contents_of,
    manifest_of,
    offers_of,
    path_fault,
)
from runtime.oci.documents import MAX_DOCUMENT_BYTES, MAX_LAYERS, digest_of, encoded, parse_index, parse_manifest
from runtime.oci.folder import describe, documents_of

WHERE = "registry.example/edge"


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Index and manifest of a package."""
    root = package_with(tmp_path_factory.mktemp("p"), {WEIGHTS: b"weights", "signatures/board.sig": b"signed"})
    index, [manifest] = documents_of(describe(root, verify=True))
    return encoded(index), encoded(manifest)


def read(index: bytes, manifest: bytes) -> Contents:
    """As a device does."""
    [offer] = offers_of(parse_index(index, WHERE), index, WHERE)
    return contents_of(offer, parse_manifest(manifest, WHERE), WHERE)


def test_what_is_written_is_read(documents: tuple[bytes, bytes]) -> None:
    contents = read(*documents)
    assert (contents.offer.name, contents.offer.version, contents.offer.variant) == ("tiny", "1.0.0", "board")
    assert contents.digests[WEIGHTS] == digest_of(b"weights").removeprefix("sha256:")
    assert contents.signature is not None
    assert contents.signature.path not in contents.digests


def test_documents_are_what_the_specification_describes(documents: tuple[bytes, bytes]) -> None:
    """Image specification 1.1: an index, and manifests of an artifact with an empty config and titled layers."""
    index, manifest = map(json.loads, documents)
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    [descriptor] = index["manifests"]
    assert manifest["artifactType"] == PACKAGE_TYPE
    assert descriptor["platform"]["os"] == "linux"
    assert descriptor["platform"]["architecture"] in ("amd64", "arm64")
    assert descriptor["digest"] == digest_of(documents[1])
    assert descriptor["annotations"] == manifest["annotations"]
    assert manifest["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
    assert all(TITLE in layer["annotations"] for layer in manifest["layers"])


def test_the_same_package_has_the_same_digest_wherever_it_is(tmp_path: Path) -> None:
    """And whatever order its files were written in."""
    files = {WEIGHTS: b"weights", "configs/a.json": b"{}"}
    one = package_with(tmp_path / "one", files)
    other = package_with(tmp_path / "other", dict(reversed(files.items())))
    for name in ("a", "b"):
        (other / "configs" / name).touch()
        (other / "configs" / name).unlink()
    build = (one / "models/decoder/board/build.json").read_bytes()
    (other / "models/decoder/board/build.json").write_bytes(build)
    indexes = [encoded(documents_of(describe(root, verify=True))[0]) for root in (one, other)]
    assert indexes[0] == indexes[1]


def test_a_manifest_alone_is_a_package_of_one_variant(documents: tuple[bytes, bytes]) -> None:
    """As `skopeo copy` without --all leaves it."""
    _, manifest = documents
    [offer] = offers_of(parse_index(manifest, WHERE), manifest, WHERE)
    assert offer.digest == digest_of(manifest)
    assert contents_of(offer, parse_manifest(manifest, WHERE), WHERE).layers


def test_what_others_put_beside_it_is_passed_over(documents: tuple[bytes, bytes]) -> None:
    """Attestations, images, keys of a later specification."""
    index = json.loads(documents[0])
    image = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": f"sha256:{'0' * 64}", "size": 1}
    index["manifests"] += [image, {**image, "annotations": None, "data": "e30="}]
    index["subject"] = image
    content = json.dumps(index).encode()
    assert len(offers_of(parse_index(content, WHERE), content, WHERE)) == 1


PATHS = [
    "",
    "/etc/passwd",
    "../x",
    "configs/../../x",
    "configs/./x",
    "configs//x",
    "configs/",
    "configs",
    "configs/a\x00b",
    "configs/a\nb",
    "configs\\..\\x",
    "configs/" + "x" * 300,
    "configs/" + "x/" * 700 + "y",
    "models/decoder/other/model.onnx",
    "models/decoder/board",
    "models/decoder/other",
    "models/encoder/board/model.onnx",
    "signatures/other.sig",
    "signatures/board.sig/x",
    "manifest.json/x",
    "build.json",
    ".ssh/authorized_keys",
    "README.md",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_no_package_has_is_refused(documents: tuple[bytes, bytes], path: str) -> None:
    manifest = json.loads(documents[1])
    manifest["layers"][0]["annotations"][TITLE] = path
    with pytest.raises(PackageCorrupt) as raised:
        contents_of(offer_of(documents), parse_manifest(json.dumps(manifest).encode(), WHERE), WHERE)
    assert str(raised.value).isprintable()


def offer_of(documents: tuple[bytes, bytes]) -> Offer:
    [offer] = offers_of(parse_index(documents[0], WHERE), documents[0], WHERE)
    return offer


@given(
    st.text(max_size=40) | st.lists(st.sampled_from(["configs", "..", ".", "models", "decoder", "a", ""])).map("/".join)
)
def test_a_path_that_is_taken_stays_inside(path: str) -> None:
    """Wherever the package is put, the file is below it."""
    if path_fault(path, "a") is None:
        root = Path("/packages/p")
        assert (root / path).is_relative_to(root)
        assert ".." not in (root / path).parts
        assert (root / path) != root


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["configs/a", "configs/a"], "names a file twice"),
        (["configs/a", "configs/A"], "names a file twice"),
        (["configs/a", "configs/a/b"], "'configs/a' is a file and a folder"),
    ],
)
def test_files_do_not_get_in_each_others_way(documents: tuple[bytes, bytes], names: list[str], reason: str) -> None:
    manifest = json.loads(documents[1])
    for name in names:
        layer = copy.deepcopy(manifest["layers"][0])
        layer["annotations"][TITLE] = name
        manifest["layers"].append(layer)
    with pytest.raises(PackageCorrupt, match=reason):
        contents_of(offer_of(documents), parse_manifest(json.dumps(manifest).encode(), WHERE), WHERE)


def test_sizes_are_bounded(documents: tuple[bytes, bytes]) -> None:
    """Of a document, of the number of layers, of a signature and of a build.json."""
    with pytest.raises(PackageCorrupt, match="more than 1 MiB"):
        parse_manifest(b" " * (MAX_DOCUMENT_BYTES + 1), WHERE)
    manifest = json.loads(documents[1])
    many = {**manifest, "layers": manifest["layers"][:1] * (MAX_LAYERS + 1)}
    with pytest.raises(PackageCorrupt, match="layers"):
        parse_manifest(json.dumps(many).encode(), WHERE)
    for path in ("signatures/board.sig", "models/decoder/board/build.json"):
        large = copy.deepcopy(manifest)
        next(layer for layer in large["layers"] if layer["annotations"][TITLE] == path)["size"] = 17 << 20
        with pytest.raises(PackageCorrupt, match="is too large to be one"):
            contents_of(offer_of(documents), parse_manifest(json.dumps(large).encode(), WHERE), WHERE)


def test_one_digest_has_one_size(documents: tuple[bytes, bytes]) -> None:
    """Or a build.json without end could come in the name of a file that may be large."""
    manifest = json.loads(documents[1])
    large = copy.deepcopy(manifest["layers"][-1])
    large |= {"size": 1 << 39, "annotations": {TITLE: "configs/a.json"}}
    manifest["layers"].insert(0, large)
    with pytest.raises(PackageCorrupt, match="says two sizes of one digest"):
        contents_of(offer_of(documents), parse_manifest(json.dumps(manifest).encode(), WHERE), WHERE)


def test_a_manifest_without_build_or_of_another_type_is_refused(documents: tuple[bytes, bytes]) -> None:
    manifest = json.loads(documents[1])
    bare = {**manifest, "layers": []}
    with pytest.raises(PackageCorrupt, match=r"has no models/decoder/board/build\.json"):
        contents_of(offer_of(documents), parse_manifest(json.dumps(bare).encode(), WHERE), WHERE)
    image = {**manifest, "artifactType": "application/vnd.oci.image.config.v1+json"}
    with pytest.raises(PackageCorrupt, match="is of another type"):
        contents_of(offer_of(documents), parse_manifest(json.dumps(image).encode(), WHERE), WHERE)


def test_index_and_manifest_say_the_same(documents: tuple[bytes, bytes]) -> None:
    """Or whoever chose by the one would get the other."""
    manifest = json.loads(documents[1])
    manifest["annotations"]["org.edgeqwen.version"] = "2.0.0"
    with pytest.raises(PackageCorrupt, match="index and manifest of board contradict each other"):
        contents_of(offer_of(documents), parse_manifest(json.dumps(manifest).encode(), WHERE), WHERE)


@pytest.mark.parametrize("key", ["name", "version", "variant", "profile", "arch"])
@pytest.mark.parametrize("value", ["", "../x", "a/b", ".", "a b", "x" * 129, "-rf"])
def test_names_are_no_paths(documents: tuple[bytes, bytes], key: str, value: str) -> None:
    index = json.loads(documents[0])
    index["manifests"][0]["annotations"][f"org.edgeqwen.{key}"] = value
    content = json.dumps(index).encode()
    with pytest.raises(PackageCorrupt, match="cannot be used"):
        offers_of(parse_index(content, WHERE), content, WHERE)


def test_variants_that_contradict_each_other_are_refused(documents: tuple[bytes, bytes]) -> None:
    """Two of one name, or of several versions."""
    index = json.loads(documents[0])
    twice = {**index, "manifests": index["manifests"] * 2}
    other = copy.deepcopy(twice)
    other["manifests"][1] = copy.deepcopy(other["manifests"][1])
    other["manifests"][1]["annotations"] |= {"org.edgeqwen.variant": "b", "org.edgeqwen.version": "2.0.0"}
    for content in (json.dumps(twice).encode(), json.dumps(other).encode()):
        with pytest.raises(PackageCorrupt, match="contradict each other"):
            offers_of(parse_index(content, WHERE), content, WHERE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value within."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def refused_or_read(index: bytes, manifest: bytes) -> None:
    said = ""
    try:
        read(index, manifest)
    except PackageCorrupt as error:
        said = str(error)
    assert said.isprintable()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data(), which=st.sampled_from([0, 1]), value=JSON)
def test_a_value_that_is_another_is_a_package_or_refused(
    documents: tuple[bytes, bytes], data: st.DataObject, which: int, value: object
) -> None:
    """Wherever it stands in the index or the manifest: never another error, never an endless one."""
    document = json.loads(documents[which])
    place = data.draw(st.sampled_from(places(document)))
    if place:
        at = document
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = value
    else:
        document = value
    changed = json.dumps(document).encode()
    refused_or_read(*((changed, documents[1]) if which == 0 else (documents[0], changed)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=200), at=st.integers(0, 2000))
def test_bytes_that_are_none_are_refused(documents: tuple[bytes, bytes], noise: bytes, at: int) -> None:
    """No JSON, half of it, or some in the middle of it."""
    index, manifest = documents
    refused_or_read(noise, manifest)
    refused_or_read(index[: at % len(index)] + noise, manifest)
    refused_or_read(index, manifest[: at % len(manifest)] + noise + manifest[at % len(manifest) :])


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'{"schemaVersion": 1e999}'])
def test_json_that_is_meant_to_hurt_is_refused(content: bytes) -> None:
    with pytest.raises(PackageCorrupt):
        parse_index(content, WHERE)


def test_manifests_of_equal_files_are_equal(tmp_path: Path) -> None:
    root = package_with(tmp_path / "p", {WEIGHTS: b"weights"})
    [(package, files)] = describe(root, verify=False).values()
    shuffled = dict(reversed(files.items()))
    assert encoded(manifest_of(package.build, files)) == encoded(manifest_of(package.build, shuffled))
