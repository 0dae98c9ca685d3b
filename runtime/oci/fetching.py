"""Brings one variant of a package here, whole or not at all, and goes on where it was cut.

    INCOMING/sha256-HEX.part        what came of a blob so far
    INCOMING/sha256-HEX             a whole blob: compared with its digest, and on the disk

Whoever fetches keeps others out of INCOMING, until the package is where it belongs. Memory is bounded by what a remote
yields at a time. Every byte is hashed once as it comes, and those that are found at a start once more.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..disk import Disk
from ..errors import PackageCorrupt, PackageError, RemoteUnavailable, TransferError, TransferInterrupted
from ..package import Package, file_digest, open_variants
from .contents import Contents, Layer, require_agreement
from .download import Download, is_file
from .source import Source

_PART = ".part"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
SPARE_BYTES = 16 << 20
"""Of a disk, beside the files: for folders and what a file system keeps for itself."""

Check = Callable[[Mapping[str, str], bytes | None], None]
"""Sees path to SHA-256, in hex, of all files, and the signature, before other bytes are asked for; raises to refuse."""


@dataclass(frozen=True)
class Fetched:
    """What is there now.

    Args:
        package: whole, compared with its digests, and on the disk.
        fetched_bytes: that came over the network, or from where the package was.
        linked_bytes: that another package here had.
        kept_bytes: that an earlier fetch had brought.
    """

    package: Package
    fetched_bytes: int
    linked_bytes: int
    kept_bytes: int


def fetch(
    source: Source,
    contents: Contents,
    into: Path,
    disk: Disk,
    *,
    check: Check | None = None,
    others: Iterable[Path] = (),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Fetched:
    """Makes the folder `into` the package with the one variant that `contents` describes; its parent is INCOMING.

    Called again after it was stopped, anywhere, it goes on. Nothing but `into` and what is above changes.

    Args:
        others: packages here, whose files are linked rather than fetched if they are the same.
        progress: is told how many bytes of how many are there.

    Raises TransferError, PackageError, and what `check` raises.
    """
    with disk_errors(into.parent):
        return _Fetch(source, contents, into, disk, progress).run(check, others)


class _Fetch:
    def __init__(
        self,
        source: Source,
        contents: Contents,
        into: Path,
        disk: Disk,
        progress: Callable[[int, int], None],
    ) -> None:
        self._source, self._contents, self._into, self._disk = source, contents, into, disk
        self._progress = progress
        self._incoming = into.parent
        self._fetched = self._linked = self._kept = 0
        self._counted: set[str] = set()  # digests of what is here and was counted
        self._layers: dict[str, list[Layer]] = defaultdict(list)
        for layer in contents.layers:
            self._layers[layer.sha256].append(layer)

    def run(self, check: Check | None, others: Iterable[Path]) -> Fetched:
        signature = self._contents.signature
        if check is not None:
            check(self._contents.digests, self._content(signature) if signature else None)
        self._remove_strays()
        missing = [layers for layers in self._layers.values() if not self._is_placed(layers)]
        self._require_room([layers[0] for layers in missing])
        same = _same_files({layers[0].sha256 for layers in missing}, others)
        for layers in missing:
            self._get(layers[0], same.get(layers[0].sha256, []))
        self._make_folders()
        for layers in missing:
            self._place(layers)
        for folder in sorted(self._folders(), reverse=True):
            self._disk.sync_dir(folder)
        self._disk.sync_dir(self._incoming)
        return Fetched(self._opened(), self._fetched, self._linked, self._kept)

    def _content(self, layer: Layer) -> bytes:
        """Of a small file."""
        if self._is_placed([layer]):
            return (self._into / layer.path).read_bytes()
        return self._get(layer, []).read_bytes()

    def _is_placed(self, layers: list[Layer]) -> bool:
        """Whether a fetch that was stopped late has put the files into the package."""
        paths = [self._into / layer.path for layer in layers]
        if not all(_is_blob(path, layers[0]) for path in paths):
            return False
        self._keep(layers[0])
        return True

    def _get(self, layer: Layer, same: list[Path]) -> Path:
        """The whole blob of `layer`, as a file in INCOMING."""
        blob = self._incoming / f"sha256-{layer.sha256}"
        if self._is_kept(blob, layer):
            self._keep(layer)
        elif self._link(same, layer, blob):
            self._linked += layer.size_bytes
            self._report()
        else:
            part = blob.with_name(blob.name + _PART)
            self._download(layer, part)
            self._disk.fsync(part)
            self._disk.rename(part, blob)
        self._counted.add(layer.sha256)
        return blob

    def _is_kept(self, blob: Path, layer: Layer) -> bool:
        """Whether an earlier fetch left the whole blob. What a disk or somebody else has made of it goes."""
        if not is_file(blob, layer.size_bytes):
            return False
        if file_digest(blob) == layer.sha256:
            return True
        self._source.note(f"what there was of {layer.path} is damaged: fetching it anew")
        self._disk.unlink(blob)
        return False

    def _download(self, layer: Layer, part: Path) -> None:
        try:
            Download(self._source, layer, part, self._disk, self._come).run()
        except RemoteUnavailable as error:
            if self._fetched == 0:
                raise
            raise TransferInterrupted(f"{error}; what came is kept: do the same again to go on") from error

    def _keep(self, layer: Layer) -> None:
        """Counts what was here before."""
        if layer.sha256 not in self._counted:
            self._counted.add(layer.sha256)
            self._kept += layer.size_bytes
        self._report()

    def _come(self, fetched: int, kept: int) -> None:
        self._fetched += fetched
        self._kept += kept
        self._report()

    def _report(self) -> None:
        self._progress(self._fetched + self._linked + self._kept, self._contents.size_bytes)

    def _link(self, same: list[Path], layer: Layer, blob: Path) -> bool:
        """Whether one of the files `same` is what is wanted, and could be given another name."""
        for path in same:
            if _is_blob(path, layer):
                try:
                    self._disk.link(path, blob)
                except OSError as error:
                    if error.errno in _FULL:
                        raise
                    return False  # another file system, or one without links
                return True
        return False

    def _require_room(self, missing: list[Layer]) -> None:
        blobs = {layer: self._incoming / f"sha256-{layer.sha256}" for layer in missing}
        present = sum(_size(blob) or _size(blob.with_name(blob.name + _PART)) for blob in blobs.values())
        needed = sum(layer.size_bytes for layer in missing) - present
        free = self._disk.free_bytes(self._incoming)
        if needed + SPARE_BYTES > free and needed > 0:
            raise TransferError(
                f"no space for {self._contents.offer} at {self._incoming}: it needs {_megabytes(needed)} more and"
                f" {_megabytes(free)} are free; make room and do the same again"
            )

    def _folders(self) -> set[Path]:
        inside = {
            self._into / folder for layer in self._contents.layers for folder in PurePosixPath(layer.path).parents
        }
        return {self._into, *inside}

    def _make_folders(self) -> None:
        for folder in sorted(self._folders()):
            if not folder.is_dir():
                self._disk.mkdir(folder)

    def _place(self, layers: list[Layer]) -> None:
        """The blob under its names in the package; the last takes it."""
        blob = self._incoming / f"sha256-{layers[0].sha256}"
        for layer in layers[:-1]:
            path = self._into / layer.path
            if path.exists():
                self._disk.unlink(path)
            try:
                self._disk.link(blob, path)
            except OSError as error:
                if error.errno in _FULL:
                    raise
                self._copy(blob, path)
        self._disk.rename(blob, self._into / layers[-1].path)

    def _copy(self, source: Path, target: Path) -> None:
        self._disk.write(target, b"")
        with source.open("rb") as file:
            while chunk := file.read(1 << 20):
                self._disk.append(target, chunk)
        self._disk.fsync(target)

    def _remove_strays(self) -> None:
        """What the package does not have, or has as a file and not as a folder: no signature covers it."""
        files, folders = {self._into / layer.path for layer in self._contents.layers}, self._folders()
        for path in sorted(self._into.rglob("*"), reverse=True):
            is_folder = path.is_dir() and not path.is_symlink()
            if path not in (folders if is_folder else files):
                (self._disk.rmdir if is_folder else self._disk.unlink)(path)

    def _opened(self) -> Package:
        """Raises PackageCorrupt if what was pushed, though it came as it was, is no package."""
        package = Package.open(self._into, self._contents.offer.variant, verify=False)
        for path, file in package.build.files.items():
            if self._contents.digests.get(path) != file.sha256:
                raise PackageCorrupt(f"{path} of {self._source.name} is not what was built: push the package again")
        require_agreement(self._contents.offer, package.build, self._source.name)
        return package


def _same_files(wanted: set[str], others: Iterable[Path]) -> dict[str, list[Path]]:
    """What other packages say that they have of it."""
    found = defaultdict(list)
    for root in others if wanted else ():
        with suppress(PackageError, OSError):  # it may be on its way out
            for package in open_variants(root):
                for path, file in package.build.files.items():
                    if file.sha256 in wanted:
                        found[file.sha256].append(root / path)
    return found


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turns OSError of the block, which writes at `place`, into TransferError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise TransferError(
                f"no space left on the disk of {place}: make room and do the same again, what came is kept"
            ) from error
        if error.errno == errno.EFBIG:
            raise TransferError(f"the file system of {place} takes no file as large as one of the package's") from error
        raise TransferError(f"cannot write to {place} ({error.strerror}): check who may write there") from error


def _is_blob(path: Path, layer: Layer) -> bool:
    """Whether the file has the content of `layer`; one that cannot be read, as of a bad block, has not."""
    try:
        return is_file(path, layer.size_bytes) and file_digest(path) == layer.sha256
    except OSError:
        return False


def _size(path: Path) -> int:
    """Of a plain file; 0 if it is none."""
    return os.lstat(path).st_size if is_file(path) else 0


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
