"""References: what people type is understood, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ReferenceInvalid
from runtime.oci.reference import (
    FolderReference,
    LayoutReference,
    Mirror,
    RegistryReference,
    parse_mirror,
    parse_reference,
)

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://registry.example/qwen", RegistryReference("registry.example", "qwen")),
        ("oci://localhost:5000/edge/qwen:1.2.0", RegistryReference("localhost:5000", "edge/qwen", "1.2.0")),
        ("oci://[::1]:5000/a/b-c/d__e:V_1", RegistryReference("[::1]:5000", "a/b-c/d__e", "V_1")),
        ("oci://registry/fleet.prod/qwen", RegistryReference("registry", "fleet.prod/qwen")),
        (f"oci://r.example/q@sha256:{HEX}", RegistryReference("r.example", "q", None, f"sha256:{HEX}")),
        (f"oci://r.example/q:t@sha256:{HEX}", RegistryReference("r.example", "q", "t", f"sha256:{HEX}")),
        ("oci-layout:/media/usb", LayoutReference(Path("/media/usb"))),
        ("oci-layout:/media/usb:qwen-1.2.0", LayoutReference(Path("/media/usb"), "qwen-1.2.0")),
        ("oci-layout:///media/usb:t", LayoutReference(Path("/media/usb"), "t")),
        ("oci-layout:usb", LayoutReference(Path("usb"))),
        ("oci-layout:/media/a:b/c", LayoutReference(Path("/media/a:b/c"))),
        ("dist/qwen.ortpackage", FolderReference(Path("dist/qwen.ortpackage"))),
        ("/srv/qwen.ortpackage", FolderReference(Path("/srv/qwen.ortpackage"))),
        ("file:///srv/a%20b.ortpackage", FolderReference(Path("/srv/a b.ortpackage"))),
        ("file://localhost/srv/a", FolderReference(Path("/srv/a"))),
    ],
)
def test_references_are_understood(text: str, expected: object) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "oci://",
        "oci://registry.example",
        "oci://registry.example/",
        "oci://registry.example/Qwen",
        "oci://registry.example/../etc",
        "oci://registry.example/a//b",
        "oci://user:password@registry.example/qwen",
        "oci://registry.example/qwen:",
        "oci://registry.example/qwen:.hidden",
        "oci://registry.example/qwen:" + "t" * 129,
        "oci://registry.example/" + "a" * 256,
        "oci://registry.example/qwen@sha256:12",
        f"oci://registry.example/qwen@md5:{HEX}",
        "oci://registry.example/qwen?x=1",
        "oci://registry example/qwen",
        "oci://registry.example:99999/qwen",
        "oci://registry.example:0/qwen",
        "oci://[::::]/qwen",
        "oci://registry.example/qwen\nHost: evil",
        "oci-layout:",
        "oci-layout:/media/usb:t t",
        "file://elsewhere/srv",
        "file://relative",
        "https://registry.example/qwen",
        "docker://registry.example/qwen",
        "a\x00b",
        "x" * 1025,
    ],
)
def test_what_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ReferenceInvalid) as raised:
        parse_reference(text)
    assert raised.value.exit_code == 2
    assert str(raised.value).isprintable()


def test_a_folder_that_is_a_layout_is_taken_for_one(tmp_path: Path) -> None:
    """Also with a colon in its name."""
    layout = tmp_path / "my:usb"
    layout.mkdir()
    (layout / "oci-layout").write_text("{}")
    assert parse_reference(f"file://{layout}") == LayoutReference(layout)
    assert parse_reference(str(layout)) == LayoutReference(layout)
    assert parse_reference(f"oci-layout:{layout}") == LayoutReference(layout)
    assert parse_reference(f"oci-layout:{layout}:tag") == LayoutReference(layout, "tag")


HOSTS = st.from_regex(r"[a-z][a-z0-9]{0,9}(\.[a-z][a-z0-9]{0,9}){0,2}(:[1-9][0-9]{0,3})?", fullmatch=True)
REPOSITORIES = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-)[a-z0-9]{1,4})?(/[a-z0-9]{1,8}){0,2}", fullmatch=True)
TAGS = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(HOSTS, REPOSITORIES, TAGS, st.none() | st.just(f"sha256:{HEX}"))
def test_what_is_shown_is_understood_again(host: str, repository: str, tag: str | None, digest: str | None) -> None:
    reference = RegistryReference(host, repository, tag, digest)
    assert parse_reference(str(reference)) == reference


@given(
    st.text(max_size=60) | st.text(max_size=60).map("oci://{}".format) | st.text(max_size=60).map("file://{}".format)
)
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    """Never any other error."""
    said = ""
    try:
        parse_reference(text)
    except ReferenceInvalid as error:
        said = str(error)
    assert said.isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cache.example", Mirror("cache.example")),
        ("cache.example:5000/proxy/edge", Mirror("cache.example:5000", "proxy/edge")),
        ("http://10.0.0.5:5000", Mirror("10.0.0.5:5000", "", True)),
        ("https://localhost:5000/", Mirror("localhost:5000", "", False)),
    ],
)
def test_mirrors_are_understood(text: str, expected: Mirror) -> None:
    assert parse_mirror(text) == expected


@pytest.mark.parametrize(
    "text", ["", "http://", "ftp://a", "a b", "user@host", "host/UPPER", "http://host:port", "host:70000", "[::::]"]
)
def test_what_is_no_mirror_is_refused(text: str) -> None:
    with pytest.raises(ReferenceInvalid, match="is no mirror"):
        parse_mirror(text)


def test_a_mirror_has_the_same_names_below_its_prefix() -> None:
    reference = RegistryReference("registry.example", "edge/qwen", "1.0.0")
    assert str(Mirror("cache:5000").of(reference)) == "oci://cache:5000/edge/qwen:1.0.0"
    assert str(Mirror("cache:5000", "proxy").of(reference)) == "oci://cache:5000/proxy/edge/qwen:1.0.0"
