"""A package in OCI's terms: an index of variants, and for each a manifest with one layer a file, uncompressed.

So a layer's digest is the file's SHA-256, what variants share is one blob, and a signature is a layer as any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from ..errors import PackageCorrupt
from ..package import BUILD_FILE, CONFIGS, MAX_BUILD_BYTES, VARIANTS, Build, File, is_version, signature_name
from .documents import ARCHITECTURES, MANIFEST_TYPE, Descriptor, Index, Manifest, Platform, digest_of, encoded

PACKAGE_TYPE = "application/vnd.edgeqwen.package.v1"
FILE_TYPE = "application/vnd.edgeqwen.file.v1"
TITLE = "org.opencontainers.image.title"

EMPTY_CONTENT = b"{}"
EMPTY = Descriptor(
    media_type="application/vnd.oci.empty.v1+json", digest=digest_of(EMPTY_CONTENT), size=len(EMPTY_CONTENT)
)
"""The config of what is no image, as the specification has it."""

MAX_SIGNATURE_BYTES = 1 << 20

_OURS = "org.edgeqwen."
_KEYS = ("name", "version", "variant", "profile", "arch")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LONGEST_PATH, _LONGEST_SEGMENT = 1024, 255


@dataclass(frozen=True)
class Offer:
    """A variant that a package has.

    Args:
        digest: of its manifest, `sha256:HEX`.
        size_bytes: of its manifest.
        arch: as `uname -m` says it.
    """

    digest: str
    size_bytes: int
    name: str
    version: str
    variant: str
    profile: str
    arch: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} for {self.variant}"


@dataclass(frozen=True)
class Layer:
    """A file of the package. `sha256` is in hex."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Contents:
    """The files of one variant, by what its manifest says."""

    offer: Offer
    layers: tuple[Layer, ...]

    @cached_property
    def signature(self) -> Layer | None:
        """The variant's signature, if it has one."""
        path = signature_name(self.offer.variant)
        return next((layer for layer in self.layers if layer.path == path), None)

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """Path to SHA-256, in hex, of all that a signature covers."""
        return {layer.path: layer.sha256 for layer in self.layers if layer is not self.signature}

    @property
    def build_digest(self) -> str:
        """SHA-256 of `build.json`, in hex."""
        return self.digests[build_path(self.offer.variant)]

    @property
    def size_bytes(self) -> int:
        """What the files take, those of equal content once."""
        return sum({layer.sha256: layer.size_bytes for layer in self.layers}.values())


def build_path(variant: str) -> str:
    """Where in a package the `build.json` of a variant is."""
    return (VARIANTS / variant / BUILD_FILE).as_posix()


def belongs_to(path: str, variant: str) -> bool:
    """Whether a package has files of that path which go to a device with `variant`."""
    parts = PurePosixPath(path).parts
    in_variants = parts[: len(VARIANTS.parts)] == VARIANTS.parts
    return (
        path in ("manifest.json", (VARIANTS / "metadata.json").as_posix(), signature_name(variant))
        or (parts[0] == CONFIGS.name and len(parts) > 1)
        or (in_variants and len(parts) > len(VARIANTS.parts) + 1 and parts[len(VARIANTS.parts)] == variant)
    )


def offers_of(document: Index | Manifest, content: bytes, where: str) -> list[Offer]:
    """The variants that `document`, whose bytes are `content`, has. Raises PackageCorrupt if there are none."""
    if isinstance(document, Manifest):
        offers = [_offer(digest_of(content), len(content), document.annotations or {}, where)]
    else:
        offers = [
            _offer(each.digest, each.size, each.annotations, where)
            for each in document.manifests
            if each.media_type == MANIFEST_TYPE and each.annotations and f"{_OURS}variant" in each.annotations
        ]
    if not offers:
        raise PackageCorrupt(f"{where} is no package of edgeqwen: nothing in it says that it is a variant of one")
    if len({offer.variant for offer in offers}) < len(offers) or len({(it.name, it.version) for it in offers}) > 1:
        raise PackageCorrupt(f"{where} is no package of edgeqwen: its variants contradict each other")
    return sorted(offers, key=lambda offer: offer.variant)


def contents_of(offer: Offer, manifest: Manifest, where: str) -> Contents:
    """The files of `offer`, whose manifest is `manifest`. Raises PackageCorrupt."""
    if manifest.artifact_type != PACKAGE_TYPE:
        raise PackageCorrupt(f"{where}: the manifest of {offer.variant} is of another type than {PACKAGE_TYPE}")
    if _offer(offer.digest, offer.size_bytes, manifest.annotations or {}, where) != offer:
        raise PackageCorrupt(f"{where}: index and manifest of {offer.variant} contradict each other")
    layers = tuple(
        Layer((each.annotations or {}).get(TITLE, ""), each.digest.removeprefix("sha256:"), each.size)
        for each in manifest.layers
    )
    if fault := _fault(layers, offer.variant):
        raise PackageCorrupt(f"{where}: {fault}")
    return Contents(offer, layers)


def unfit_name(build: Build) -> str | None:
    """What of its name, variant, profile and architecture no device takes as a name; None if all are fit."""
    return _unfit((build.name, build.variant, build.profile.name, build.needs.arch))


def manifest_of(build: Build, files: Mapping[str, File]) -> Manifest:
    """The manifest of a variant with `files`, by path. The same files give the same manifest."""
    layers = [
        Descriptor(
            media_type=FILE_TYPE, digest=f"sha256:{file.sha256}", size=file.size_bytes, annotations={TITLE: path}
        )
        for path, file in sorted(files.items())
    ]
    return Manifest(artifact_type=PACKAGE_TYPE, config=EMPTY, layers=layers, annotations=_annotations(build))


def index_of(manifests: Iterable[Manifest]) -> Index:
    """The index of the manifests of all variants of a package."""
    descriptors = []
    for manifest in manifests:
        content, annotations = encoded(manifest), manifest.annotations or {}
        architecture = ARCHITECTURES.get(annotations[f"{_OURS}arch"])
        descriptors.append(
            Descriptor(
                media_type=MANIFEST_TYPE,
                digest=digest_of(content),
                size=len(content),
                annotations=annotations,
                platform=Platform(architecture=architecture) if architecture else None,
            )
        )
    return Index(manifests=descriptors)


def require_agreement(offer: Offer, build: Build, where: str) -> None:
    """Raises PackageCorrupt if `build.json`, which signatures cover, is not of what was offered, which they do not."""
    if (said := _annotations(build)) != (offered := _annotations_of(offer)):
        wrong = next(key for key in said if said[key] != offered[key])
        raise PackageCorrupt(
            f"{where} says {offered[wrong]!r} where build.json says {said[wrong]!r} ({wrong}): push the package again"
        )


def _annotations(build: Build) -> dict[str, str]:
    return _annotations_of(Offer("", 0, build.name, build.version, build.variant, build.profile.name, build.needs.arch))


def _annotations_of(offer: Offer) -> dict[str, str]:
    return {f"{_OURS}{key}": getattr(offer, key) for key in sorted(_KEYS)}


def _offer(digest: str, size_bytes: int, annotations: Mapping[str, str], where: str) -> Offer:
    name, version, variant, profile, arch = (annotations.get(f"{_OURS}{key}", "") for key in _KEYS)
    if not is_version(version) or _unfit((name, variant, profile, arch)) is not None:
        raise PackageCorrupt(f"{where} is no package of edgeqwen: its annotations {_OURS}* cannot be used")
    return Offer(digest, size_bytes, name, version, variant, profile, arch)


def _unfit(names: Iterable[str]) -> str | None:
    return next((name for name in names if not _NAME.fullmatch(name)), None)


def _fault(layers: Sequence[Layer], variant: str) -> str | None:
    """What is wrong with the files of a manifest; None if nothing is."""
    for layer in layers:
        if fault := path_fault(layer.path, variant):
            return fault
    folded = {layer.path.casefold() for layer in layers}  # some file systems do not tell A from a
    if len(folded) < len(layers):
        return "it names a file twice"
    folders = {folder.as_posix() for path in folded for folder in PurePosixPath(path).parents}
    if clash := sorted(folded & folders):
        return f"{clash[0]!r} is a file and a folder in it"
    if len({layer.sha256 for layer in layers}) < len({(layer.sha256, layer.size_bytes) for layer in layers}):
        return "it says two sizes of one digest"
    bounds = {build_path(variant): MAX_BUILD_BYTES, signature_name(variant): MAX_SIGNATURE_BYTES}
    if large := [layer.path for layer in layers if layer.size_bytes > bounds.get(layer.path, layer.size_bytes)]:
        return f"{large[0]} is too large to be one"
    if build_path(variant) not in {layer.path for layer in layers}:
        return f"it has no {build_path(variant)}"
    return None


def path_fault(path: str, variant: str) -> str | None:
    """Why no file of `variant` may be called so; None if one may."""
    if not (path.isprintable() and len(path) <= _LONGEST_PATH and all(map(_is_segment, path.split("/")))):
        return f"{path[:80]!r} is no path in a package"
    return None if belongs_to(path, variant) else f"{path[:80]!r} does not belong to {variant}"


def _is_segment(name: str) -> bool:
    return name not in ("", "..", ".") and "\\" not in name and len(name.encode()) <= _LONGEST_SEGMENT
