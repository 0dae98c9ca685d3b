"""A package as a registry or a layout will have it: what is to be there before what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.oci.documents import digest_of, encoded
from runtime.oci.folder import describe, documents_of
from runtime.package import open_variants

from ..progress import Reporter

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Publication:
    """A package whose files were all compared with their digests.

    Args:
        blobs: by digest in hex: a file and its size in bytes. What variants share is one.
        manifests: by digest (`sha256:HEX`).
        index: names the manifests.
    """

    name: str
    version: str
    blobs: dict[str, tuple[Path, int]]
    manifests: dict[str, bytes]
    index: bytes

    @property
    def digest(self) -> str:
        """Of the index."""
        return digest_of(self.index)

    @property
    def size_bytes(self) -> int:
        return sum(size for _, size in self.blobs.values())


def read_publication(package: Path, reporter: Reporter) -> Publication:
    """Reads every file of the package at `package`. Raises PackageError if it is not what was built."""
    listed = {path: file for variant in open_variants(package) for path, file in variant.build.files.items()}
    done, total = 0, sum(file.size_bytes for file in listed.values())
    with reporter.stage("digests, MB") as stage:

        def read(count: int) -> None:
            nonlocal done
            done += count
            stage.update(done // MEGABYTE, total // MEGABYTE)

        variants = describe(package, verify=True, progress=read)
    index, manifests = documents_of(variants)
    build = next(iter(variants.values()))[0].build
    return Publication(
        build.name,
        build.version,
        {
            file.sha256: (package / path, file.size_bytes)
            for _, all_ in variants.values()
            for path, file in all_.items()
        },
        {digest_of(content): content for content in map(encoded, manifests)},
        encoded(index),
    )
