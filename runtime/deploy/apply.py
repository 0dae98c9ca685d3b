"""Carries a plan out, or says what it would change. Twice is the same as once."""

from __future__ import annotations

import difflib
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import DeployError
from ..whole_file import replacing
from .plan import Entry
from .target import Target

Action = Literal["create", "update", "remove", "keep", "same"]


@dataclass(frozen=True)
class Change:
    """What happens at a path of the target. `diff` is unified; empty where nothing changes."""

    path: str
    action: Action
    diff: str = ""


def apply(entries: Iterable[Entry], target: Target, *, dry_run: bool) -> list[Change]:
    """Makes the target as planned; with `dry_run`, only says what it would do. Raises DeployError."""
    changes = []
    for entry in entries:
        path = target.path(entry.path)
        change = _change(entry, path)
        if not dry_run and change.action in ("create", "update", "remove"):
            try:
                _carry_out(entry, path)
            except OSError as error:
                raise DeployError(f"cannot write {path} ({error.strerror}): run as root") from error
        if change.action != "same" or path.exists() or path.is_symlink():
            changes.append(change)
    return changes


def _change(entry: Entry, path: Path) -> Change:
    have, wanted = _describe(path), _wanted(entry)
    if have is not None and entry.keep:
        return Change(entry.path, "keep")
    if have == wanted:
        return Change(entry.path, "same")
    lines = difflib.unified_diff(
        (have or "").splitlines(keepends=True), (wanted or "").splitlines(keepends=True), entry.path, entry.path
    )
    action: Action = "remove" if wanted is None else "create" if have is None else "update"
    return Change(entry.path, action, "".join(lines))


def _wanted(entry: Entry) -> str | None:
    return f"-> {entry.link}\n" if entry.link is not None else entry.content


def _describe(path: Path) -> str | None:
    """A file's text, or where a link points to. Raises DeployError for what is neither, which stays untouched."""
    if path.is_symlink():
        return f"-> {path.readlink()}\n"
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DeployError(f"cannot read {path} ({error.strerror}): run as root") from error
    raise DeployError(f"{path} is in the way and is no file: move it")


def _carry_out(entry: Entry, path: Path) -> None:
    if entry.content is None and entry.link is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        if entry.link is not None:
            new.unlink()
            new.symlink_to(entry.link)
        else:
            new.write_text(entry.content or "", encoding="utf-8")
            new.chmod(entry.mode)
