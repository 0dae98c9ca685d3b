"""What people type to say where a package is.

    oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:HEX]    a registry
    oci-layout:PATH[:TAG]                              an OCI image layout, such as a USB stick
    PATH, file://PATH                                  a NAME.ortpackage folder, or an OCI image layout

The grammar of names and tags is the OCI distribution specification's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import ReferenceInvalid

LAYOUT_FILE = "oci-layout"
"""What an OCI image layout is known by."""

TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
DIGEST = "sha256:[0-9a-f]{64}"

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]{{2,45}}\])(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = rf"{_PART}(?:/{_PART})*"
_REGISTRY = re.compile(
    rf"(?P<host>{_HOST})/(?P<repository>{_REPOSITORY})(?::(?P<tag>{TAG}))?(?:@(?P<digest>{DIGEST}))?"
)
_MIRROR = re.compile(rf"(?:(?P<scheme>https?)://)?(?P<host>{_HOST})(?:/(?P<prefix>{_REPOSITORY}))?/?")
_LONGEST = 1024
_LONGEST_REPOSITORY = 255  # what registries take


@dataclass(frozen=True)
class RegistryReference:
    """A package in a registry. `digest` is of the index, or of a variant's manifest; where it is given it counts."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"oci://{self.host}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


@dataclass(frozen=True)
class LayoutReference:
    """A package in an OCI image layout. `tag` may be left out where there is one only."""

    path: Path
    tag: str | None = None

    def __str__(self) -> str:
        return f"oci-layout:{self.path}{f':{self.tag}' if self.tag else ''}"


@dataclass(frozen=True)
class FolderReference:
    """A package as the compiler writes it."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


Reference = RegistryReference | LayoutReference | FolderReference


@dataclass(frozen=True)
class Mirror:
    """A registry that has what another has, by the same names below `prefix`."""

    host: str
    prefix: str = ""
    plain_http: bool | None = None
    """Whether it is spoken to without TLS; None: if it is on this machine."""

    def of(self, reference: RegistryReference) -> RegistryReference:
        """Where it has what `reference` names."""
        repository = f"{self.prefix}/{reference.repository}" if self.prefix else reference.repository
        return RegistryReference(self.host, repository, reference.tag, reference.digest)


def parse_reference(text: str) -> Reference:
    """Raises ReferenceInvalid. Whether a PATH is a package or a layout is looked at; nothing else is."""
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise ReferenceInvalid(f"{text[:60]!r} is no reference: give oci://HOST/REPOSITORY:TAG, or a package's folder")
    if text.startswith("oci://"):
        return _parse_registry(text)
    if text.startswith("oci-layout:"):
        return _parse_layout(text.removeprefix("oci-layout:").removeprefix("//"))
    if text.startswith("file://"):
        path = unquote(text.removeprefix("file://").removeprefix("localhost"))
        if not path.startswith("/"):
            raise ReferenceInvalid(f"{text!r} is no reference: a file:// has a whole path, as file:///media/usb")
        return _parse_path(path)
    if re.match(r"[a-z][a-z0-9+.-]*:", text):
        raise ReferenceInvalid(f"{text!r} is no reference: it begins with oci://, oci-layout: or file://, or is a path")
    return _parse_path(text)


def parse_mirror(text: str) -> Mirror:
    """`[http://]HOST[:PORT][/PREFIX]`. Raises ReferenceInvalid."""
    found = _MIRROR.fullmatch(text)
    if found is None or len(text) > _LONGEST or not _is_host(found["host"]):
        raise ReferenceInvalid(f"{text[:60]!r} is no mirror: give HOST[:PORT][/PREFIX], after http:// if it has no TLS")
    plain = None if found["scheme"] is None else found["scheme"] == "http"
    return Mirror(found["host"], found["prefix"] or "", plain)


def _parse_registry(text: str) -> RegistryReference:
    found = _REGISTRY.fullmatch(text.removeprefix("oci://"))
    if found is None or len(found["repository"]) > _LONGEST_REPOSITORY or not _is_host(found["host"]):
        raise ReferenceInvalid(
            f"{text!r} is no reference: it looks like oci://registry.example/edge/qwen:1.2.0, with a repository in"
            " lower case, and may end with @sha256: and 64 hex digits"
        )
    return RegistryReference(found["host"], found["repository"], found["tag"], found["digest"])


def _is_host(host: str) -> bool:
    """Whether the address in brackets and the port of HOST[:PORT] can be any."""
    try:
        return urlsplit(f"//{host}").port != 0
    except ValueError:
        return False


def _parse_layout(text: str) -> LayoutReference:
    """A colon belongs to the path if what is before it is no layout, and all is."""
    path, colon, tag = text.rpartition(":")
    if not colon or "/" in tag or _is_layout(Path(text)):
        path, tag = text, ""
    if not path or (colon and tag and not re.fullmatch(TAG, tag)):
        raise ReferenceInvalid(f"{text!r} is no reference: it looks like oci-layout:/media/usb:TAG")
    return LayoutReference(Path(path), tag or None)


def _parse_path(text: str) -> LayoutReference | FolderReference:
    path = Path(text)
    return LayoutReference(path) if _is_layout(path) else FolderReference(path)


def _is_layout(path: Path) -> bool:
    """What cannot be looked at is none: whoever opens it says why."""
    try:
        return (path / LAYOUT_FILE).is_file()
    except OSError:
        return False
