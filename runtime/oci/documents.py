"""The JSON documents of a registry: indexes and manifests of the OCI image specification 1.1, as far as we need them.

What comes from outside is bounded, and refused with PackageCorrupt. Keys that we do not know are passed over, as the
specification wants it.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ..errors import PackageCorrupt, printable
from ..validation import faults_of
from .reference import DIGEST

INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"

MAX_DOCUMENT_BYTES = 1 << 20
"""As of a signature, which names as many files. What is wrong with a document may take a hundred times that."""

MAX_LAYERS = 4_000
_MAX_MANIFESTS = 1_000
_MAX_BLOB_BYTES = 1 << 40

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What the specification calls an architecture, by what `uname -m` calls it."""


class Document(BaseModel):
    """What the specification describes: its names are ours in camel case."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Platform(Document):
    """What a manifest is for."""

    architecture: str
    os: str = "linux"


class Descriptor(Document):
    """Something by its digest."""

    media_type: str
    digest: Annotated[str, Field(pattern=f"^{DIGEST}$")]
    size: Annotated[int, Field(ge=0, le=_MAX_BLOB_BYTES)]
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str | None = None

    @property
    def sha256(self) -> str:
        """The digest in hex."""
        return self.digest.removeprefix("sha256:")


class Index(Document):
    """What a tag names: manifests to choose from."""

    schema_version: Literal[2] = 2
    media_type: Literal["application/vnd.oci.image.index.v1+json"] = INDEX_TYPE
    manifests: Annotated[list[Descriptor], Field(max_length=_MAX_MANIFESTS)]
    annotations: dict[str, str] | None = None


class Manifest(Document):
    """The files of one variant."""

    schema_version: Literal[2] = 2
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"] = MANIFEST_TYPE
    artifact_type: str | None = None
    config: Descriptor
    layers: Annotated[list[Descriptor], Field(max_length=MAX_LAYERS)]
    annotations: dict[str, str] | None = None


class _Kind(Document):
    """As much of a document as tells which it is: a `mediaType` may be missing in it."""

    media_type: str | None = None
    manifests: object = None


_Model = TypeVar("_Model", bound=Document)


def parse_index(content: bytes, where: str) -> Index | Manifest:
    """What a reference names: an index, or the manifest of one variant. Raises PackageCorrupt."""
    kind = _parse(_Kind, content, where)
    is_manifest = kind.media_type == MANIFEST_TYPE or (kind.media_type is None and kind.manifests is None)
    return parse_manifest(content, where) if is_manifest else _parse(Index, content, where)


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Raises PackageCorrupt."""
    return _parse(Manifest, content, where)


def encoded(document: Document) -> bytes:
    """As it is written: the same document gives the same bytes, and so the same digest.

    Keys are in the order that tools written in Go give them, so that one which reads and writes it leaves the digest.
    """
    return document.model_dump_json(by_alias=True, exclude_none=True).encode()


def digest_of(content: bytes) -> str:
    """As descriptors have it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _parse(model: type[_Model], content: bytes, where: str) -> _Model:
    if len(content) > MAX_DOCUMENT_BYTES:
        raise PackageCorrupt(f"{where} is no package: its manifest has more than {MAX_DOCUMENT_BYTES >> 20} MiB")
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        faults = "; ".join(sorted(map(str, faults_of(error)))[:3])
        raise PackageCorrupt(f"{where} is no package: {printable(faults)}") from error
