"""A package into a repository of a registry: blobs, then manifests, then the index, which its tags name, last.

So whoever looks sees what was there before, or this package whole. What the registry has already is not sent: weights
that variants share go once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.oci.contents import EMPTY, EMPTY_CONTENT
from runtime.oci.documents import INDEX_TYPE, MANIFEST_TYPE

from ..progress import Reporter, Stage
from .publication import MEGABYTE, Publication
from .uploads import Repository


@dataclass(frozen=True)
class Pushed:
    """What became of it.

    Args:
        tags: that name it now.
        changed: whether any of them did not before.
        sent_bytes: of files that the registry had not.
        present_bytes: of files that it had; 0 if it was not asked, as nothing was to change.
    """

    tags: tuple[str, ...]
    changed: bool
    sent_bytes: int
    present_bytes: int


def push(package: Publication, repository: Repository, tags: Sequence[str], reporter: Reporter) -> Pushed:
    """Pushes `package`; without `tags` its version is the tag. Raises TransferError."""
    tags = tuple(dict.fromkeys(tags)) or (package.version,)
    missing = [tag for tag in tags if not repository.has_manifest(tag, package.digest, INDEX_TYPE)]
    if not missing:
        return Pushed(tags, changed=False, sent_bytes=0, present_bytes=0)
    with reporter.stage("pushing, MB") as stage:
        sent = present = 0
        for sha256, (path, size) in package.blobs.items():
            if repository.has_blob(sha256, size):
                present += size
                continue
            shown = _shown(stage, sent + present, package.size_bytes, path.name)
            repository.put_blob(sha256, size, path, shown)
            sent += size
        if not repository.has_blob(EMPTY.sha256, EMPTY.size):
            repository.put_blob(EMPTY.sha256, EMPTY.size, EMPTY_CONTENT)
        for digest, content in package.manifests.items():
            repository.put_manifest(digest, content, MANIFEST_TYPE)
        for tag in missing:
            repository.put_manifest(tag, package.index, INDEX_TYPE)
    return Pushed(tags, changed=True, sent_bytes=sent, present_bytes=present)


def _shown(stage: Stage, before: int, total: int, name: str) -> Callable[[int], None]:
    """What is told how much of the file `name` went out, after `before` bytes of all others."""
    return lambda out: stage.update((before + out) // MEGABYTE, total // MEGABYTE, name)
