"""Packages of any content, and a remote in memory that fails as it is told to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unit.runtime.tiny_package import make_package

from runtime.errors import EdgeQwenError, PackageNotThere, RemoteUnavailable
from runtime.oci.contents import Contents, Offer
from runtime.oci.documents import digest_of, encoded
from runtime.oci.folder import describe, documents_of
from runtime.oci.patience import Patience
from runtime.oci.source import Source

WEIGHTS = "models/decoder/board/model.onnx.data"


def package_with(root: Path, files: Mapping[str, bytes], *variants: str) -> Path:
    """A package of `variants` (`board` if none is named) with `files` beside what each package has; all are listed."""
    make_package(root, *variants)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for variant in variants or ("board",):
        path = root / "models/decoder" / variant / "build.json"
        build = json.loads(path.read_text())
        for name, content in files.items():
            if name.startswith(("configs/", f"models/decoder/{variant}/")):
                listed = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
                build["files"][name] = listed
        path.write_text(json.dumps(build))
    return root


def files_of(root: Path) -> dict[str, bytes]:
    """Every file below `root`."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@dataclass
class MemoryRemote:
    """What a registry has of a package.

    Args:
        cuts: after how many bytes each of the next answers ends; then none does.
        cuts_of: the same for single blobs, by their digest in hex.
        sends: in the place of a blob, by its digest in hex.
        fails: what is raised in the place of any answer.
        asked: the digests of blobs and where each answer began.
    """

    documents: dict[str, bytes]
    blobs: dict[str, bytes]
    name: str = "registry.example/edge"
    cuts: list[int] = field(default_factory=list)
    cuts_of: dict[str, list[int]] = field(default_factory=dict)
    sends: dict[str, bytes] = field(default_factory=dict)
    fails: Callable[[], EdgeQwenError] | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, package: Path, name: str = "registry.example/edge") -> MemoryRemote:
        """One that has `package`, as `push` would have left it."""
        variants = describe(package, verify=True)
        index, manifests = documents_of(variants)
        documents = {digest_of(content): content for content in map(encoded, manifests)}
        blobs = {
            file.sha256: (package / path).read_bytes() for _, all_ in variants.values() for path, file in all_.items()
        }
        return cls({**documents, "": encoded(index)}, blobs, name)

    def document(self, digest: str | None) -> bytes:
        if self.fails:
            raise self.fails()
        if (digest or "") not in self.documents:
            raise PackageNotThere(f"there is no {digest}")
        return self.documents[digest or ""]

    def blob(self, sha256: str, offset: int) -> Generator[bytes]:
        self.asked.append((sha256, offset))
        if self.fails:
            raise self.fails()
        content = self.sends.get(sha256, self.blobs[sha256])[offset:]
        cuts = self.cuts_of.get(sha256) or self.cuts
        cut = cuts.pop(0) if cuts else None
        for at in range(0, len(content[:cut]), 7):
            yield content[:cut][at : at + 7]
        if cut is not None and cut < len(content):
            raise RemoteUnavailable(f"{self.name} broke off")


class Waits(list[float]):
    """How long was slept, without any sleep."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


class Clock:
    """Time passes while somebody sleeps, and when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def source_of(*remotes: MemoryRemote, retries: int = 3) -> tuple[Source, list[str]]:
    """One that does not sleep, and what it notes."""
    notes: list[str] = []
    return Source(remotes, None, Patience(retries, Waits(), lambda: 0.0), notes.append), notes


def contents_from(source: Source, variant: str = "board") -> Contents:
    """The files of `variant`."""
    return source.contents(offer_from(source, variant))


def offer_from(source: Source, variant: str = "board") -> Offer:
    return next(offer for offer in source.offers() if offer.variant == variant)
