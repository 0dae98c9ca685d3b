"""An OCI image layout, such as a USB stick has (image specification 1.1, image-layout.md).

LAYOUT/oci-layout               that it is one
LAYOUT/index.json               what is in it: an index, or a manifest, for each tag
LAYOUT/blobs/sha256/HEX         all the rest, by digest
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path

from ..errors import PackageCorrupt, PackageNotThere, TransferError
from .documents import MAX_DOCUMENT_BYTES, Descriptor, Index, Manifest, parse_index
from .reference import LAYOUT_FILE, LayoutReference

INDEX_FILE = "index.json"
BLOBS = Path("blobs/sha256")
REF_NAME = "org.opencontainers.image.ref.name"
LAYOUT_VERSION = {"imageLayoutVersion": "1.0.0"}

_CHUNK_BYTES = 64 << 10
_MAX_TAGS_SAID = 16

# No pipe keeps us waiting, and no link leads to a file that is not part of the package.
_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LayoutRemote:
    """What `reference` names in a layout."""

    def __init__(self, reference: LayoutReference) -> None:
        self._path, self._tag = reference.path, reference.tag
        self.name = str(reference)

    def document(self, digest: str | None) -> bytes:
        if digest is None:
            digest = self._entry().digest
        return read_at_most(self._blob(digest.removeprefix("sha256:")), MAX_DOCUMENT_BYTES + 1)

    def blob(self, sha256: str, offset: int) -> Generator[bytes]:
        yield from chunks_of(self._blob(sha256), offset)

    def _blob(self, sha256: str) -> Path:
        return self._path / BLOBS / sha256

    def _entry(self) -> Descriptor:
        """What the layout has under the tag, or at all."""
        index = read_layout(self._path)
        tags = {(each.annotations or {}).get(REF_NAME): each for each in index.manifests}
        if self._tag in tags and self._tag is not None:
            return tags[self._tag]
        have = ", ".join(sorted(tag for tag in tags if tag)[:_MAX_TAGS_SAID]) or "nothing with a tag"
        if self._tag is not None:
            raise PackageNotThere(f"{self._path} has no {self._tag}; it has {have}")
        if len(index.manifests) != 1:
            raise PackageNotThere(f"{self._path} has several packages, name one as oci-layout:PATH:TAG; it has {have}")
        return index.manifests[0]


def read_layout(path: Path) -> Index:
    """`index.json` of the layout at `path`. Raises PackageNotThere, PackageCorrupt and TransferError."""
    try:
        said = json.loads(read_at_most(path / LAYOUT_FILE, _CHUNK_BYTES))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("imageLayoutVersion") != LAYOUT_VERSION["imageLayoutVersion"]:
        raise PackageCorrupt(f"{path} is no OCI image layout of version 1.0.0: see its {LAYOUT_FILE}")
    found = parse_index(read_at_most(path / INDEX_FILE, MAX_DOCUMENT_BYTES + 1), str(path))
    if isinstance(found, Manifest):
        raise PackageCorrupt(f"{path} is no OCI image layout: its {INDEX_FILE} is no index")
    return found


def read_at_most(path: Path, limit: int) -> bytes:
    """As much of a file. Raises PackageNotThere and TransferError."""
    content = b""
    for chunk in chunks_of(path, 0):
        content += chunk
        if len(content) >= limit:
            break
    return content[:limit]


def chunks_of(path: Path, offset: int) -> Generator[bytes]:
    """A file from `offset` on. Raises PackageNotThere and TransferError: a stick may be drawn out or wear out."""
    try:
        with os.fdopen(os.open(path, _PLAIN), "rb", buffering=0) as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except FileNotFoundError as error:
        raise PackageNotThere(f"there is no {path}: it was not copied whole") from error
    except OSError as error:
        raise TransferError(f"cannot read {path} ({error.strerror})") from error
