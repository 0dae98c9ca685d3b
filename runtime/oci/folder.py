"""A package as the compiler writes it, in OCI's terms: for `install` of a folder, `push` and `export`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from functools import cached_property
from pathlib import Path

from ..errors import PackageCorrupt, PackageError, PackageNotThere
from ..package import File, Package, file_digest, open_variants, signature_name, variant_files
from .contents import index_of, manifest_of, path_fault, unfit_name
from .documents import Index, Manifest, digest_of, encoded
from .layout import chunks_of
from .reference import FolderReference


class FolderRemote:
    """The variants of a package. Files are compared with their digests only as they are read."""

    def __init__(self, reference: FolderReference) -> None:
        self._root = reference.path
        self.name = str(reference)

    def document(self, digest: str | None) -> bytes:
        documents = self._documents
        if digest is None:
            return next(reversed(documents.values()))
        if digest not in documents:
            raise PackageNotThere(f"{self.name} has no manifest {digest}: it has changed")
        return documents[digest]

    def blob(self, sha256: str, offset: int) -> Generator[bytes]:
        if sha256 not in self._paths:
            raise PackageNotThere(f"{self.name} has no file with the digest {sha256[:12]}...: it has changed")
        yield from chunks_of(self._root / self._paths[sha256], offset)

    @cached_property
    def _files(self) -> dict[str, tuple[Package, dict[str, File]]]:
        return describe(self._root, verify=False)

    @cached_property
    def _documents(self) -> dict[str, bytes]:
        """By digest; the index is the last."""
        index, manifests = documents_of(self._files)
        return {digest_of(content): content for content in map(encoded, (*manifests, index))}

    @cached_property
    def _paths(self) -> dict[str, str]:
        """By digest in hex."""
        return {file.sha256: path for _, files in self._files.values() for path, file in files.items()}


def describe(
    root: Path, *, verify: bool, progress: Callable[[int], None] = lambda _: None
) -> dict[str, tuple[Package, dict[str, File]]]:
    """Every variant of the package at `root`, with all files that go to a device with it, by path.

    Args:
        verify: compare every file with its digest; else what build.json says of one is taken for true.
        progress: is told how many bytes were read, some at a time.

    Raises PackageError, also for files that are no part of a package.
    """
    known: dict[str, File] = {}
    found = {}
    for package in open_variants(root):
        variant = package.build.variant
        if package.variant_dir.name != variant:
            raise PackageCorrupt(f"{package.variant_dir} has the build.json of {variant}")
        if (name := unfit_name(package.build)) is not None:
            raise PackageError(f"{root} cannot be moved: no device takes {name[:80]!r} as a name: build it again")
        files = {}
        for path in _paths_of(package):
            listed = package.build.files.get(path)
            if path not in known:
                known[path] = listed if listed and not verify else _read(root / path, progress)
            if listed and known[path] != listed:
                raise PackageCorrupt(
                    f"{path} of {root} is not what was built: copy the package again, or build it again"
                )
            files[path] = known[path]
        found[variant] = (package, files)
    return found


def documents_of(variants: Mapping[str, tuple[Package, Mapping[str, File]]]) -> tuple[Index, list[Manifest]]:
    """The index of a package and the manifests of its variants, of what `describe` found."""
    manifests = [manifest_of(package.build, files) for package, files in variants.values()]
    return index_of(manifests), manifests


def _read(path: Path, progress: Callable[[int], None]) -> File:
    try:
        return File(sha256=file_digest(path, progress), size_bytes=path.stat().st_size)
    except OSError as error:
        raise PackageError(f"cannot read {path} ({error.strerror})") from error


def _paths_of(package: Package) -> list[str]:
    """Files that go to a device with this variant, with its signature."""
    paths = variant_files(package.root, package.build.variant)
    if package.signature_file.is_file() and not package.signature_file.is_symlink():
        paths.append(signature_name(package.build.variant))
    if fault := next(filter(None, (path_fault(path, package.build.variant) for path in paths)), None):
        raise PackageError(f"{package.root} cannot be moved: {fault}, so remove it")
    return paths
