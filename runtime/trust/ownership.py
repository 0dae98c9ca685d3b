"""Files that only root or this user can have written, as ssh wants it of keys."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import Fault


def ownership_fault(path: Path) -> Fault | None:
    """What is wrong if somebody else can write `path`, or put another in its place; None if nobody can."""
    resolved = path.resolve()
    for each in (resolved, *resolved.parents, *path.absolute().parents):
        found = each.stat()
        if found.st_uid not in (0, os.geteuid()):
            return Fault(str(path), f"{each} belongs to user {found.st_uid}: chown root {each}")
        kept_apart = each != resolved and found.st_mode & stat.S_ISVTX  # as /tmp is
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not kept_apart:
            return Fault(str(path), f"others may write {each}: chmod go-w {each}")
    return None
