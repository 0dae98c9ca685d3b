"""Files that take another's place whole or not at all, whenever the power fails. The store has `disk` for that."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty file that only this user reads, or what the block makes of that, takes the place of `target` at its end.

    All is on the disk then; if the block fails, nothing has changed. Raises OSError.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    new = Path(name)
    try:
        yield new
        if not new.is_symlink():
            sync(new)
        new.replace(target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync(target.parent)


def sync(path: Path) -> None:
    """A file's content, or a folder's entries, are on the disk when this returns. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
