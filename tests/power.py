"""A disk whose power may fail before any operation, and what a file system may then have forgotten."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from runtime.disk import LocalDisk


@dataclass(eq=False)
class _File:
    content: bytes
    synced: bytes = b""


@dataclass(eq=False)
class _Folder:
    entries: dict[str, _Node] = field(default_factory=dict)
    synced: dict[str, _Node] = field(default_factory=dict)


_Node = _File | _Folder


@dataclass(eq=False)
class _Change:
    """Of entries, together or not at all: by folder and name, what is there then. `unsynced` are folders that must be
    synced until it is sure."""

    entries: dict[tuple[_Folder, str], _Node | None]
    unsynced: set[_Folder]

    def survives(self, synced: Callable[[_Folder], dict[str, _Node]]) -> None:
        for (folder, name), node in self.entries.items():
            if node is None:
                synced(folder).pop(name, None)
            else:
                synced(folder)[name] = node


@dataclass(frozen=True)
class Loss:
    """What is forgotten of what was not synced: the changes of entries for which `keeps` is false, and of a file's
    content what `content` leaves, given what it was at its last fsync and what it should be."""

    name: str
    keeps: Callable[[], bool]
    content: Callable[[bytes, bytes], bytes]

    def __str__(self) -> str:
        return self.name


@contextmanager
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one: real disks take their time for what is tried thousands of times."""
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


def losses(samples: int, seed: int = 0) -> list[Loss]:
    """None, all, files of length 0 or of zeros under names that are there, and `samples` subsets with any content."""
    return [
        Loss("nothing is lost", lambda: True, lambda _, now: now),
        Loss("all is lost", lambda: False, lambda synced, _: synced),
        Loss("names without content", lambda: True, lambda _, now: b""),
        Loss("names with zeros", lambda: True, lambda _, now: bytes(len(now))),
        Loss("content without names", lambda: False, lambda _, now: now),
        *(_random(1000 * seed + sample) for sample in range(samples)),
    ]


def _random(seed: int) -> Loss:
    source = random.Random(seed)

    def content(synced: bytes, now: bytes) -> bytes:
        cut = now[: source.randrange(len(now) + 1)]
        return source.choice([synced, now, cut, cut + source.randbytes(len(now) - len(cut)), cut + bytes(7)])

    return Loss(f"random {seed}", lambda: source.random() < 0.5, content)


class FragileDisk:
    """A `Disk` that works on real files below `root`, and knows what of them would survive a power cut.

    A rename is in a journal: it happens whole or not at all, and is sure when both its folders are synced. Nothing else
    has an order.

    Args:
        before_each: is called before every operation, and may look at what `rebooted` makes of a cut there.
    """

    def __init__(self, root: Path, before_each: Callable[[FragileDisk], None] = lambda _: None) -> None:
        self._root, self._disk, self._before_each = root, LocalDisk(), before_each
        self._top = _read(root, {})
        self._pending: list[_Change] = []

    def rebooted(self, loss: Loss, folder: Path) -> None:
        """Writes to `folder`, which is not there, what is left of `root` if the power fails now."""
        left: dict[_Folder, dict[str, _Node]] = {}

        def synced(of: _Folder) -> dict[str, _Node]:
            return left.setdefault(of, dict(of.synced))

        for change in self._pending:
            if loss.keeps():
                change.survives(synced)
        _write(self._top, folder, synced, loss, {})

    def write(self, path: Path, content: bytes) -> None:
        self._before_each(self)
        self._disk.write(path, content)
        self._file(path).content = content

    def append(self, path: Path, content: bytes) -> None:
        self._before_each(self)
        self._disk.append(path, content)
        self._file(path).content += content

    def fsync(self, path: Path) -> None:
        self._before_each(self)
        node = self._node(path)
        assert isinstance(node, _File)
        node.synced = node.content

    def sync_dir(self, path: Path) -> None:
        self._before_each(self)
        folder = self._node(path)
        unsure: list[_Change] = []
        for change in self._pending:
            change.unsynced.discard(folder)
            if change.unsynced:
                unsure.append(change)
                continue
            change.survives(lambda each: each.synced)
            for earlier in unsure:  # what came after them is sure
                for entry in change.entries:
                    earlier.entries.pop(entry, None)
        self._pending = unsure

    def rename(self, source: Path, target: Path) -> None:
        self._before_each(self)
        self._disk.rename(source, target)
        node = self._node(source)
        self._change((source, None), (target, node))

    def link(self, source: Path, target: Path) -> None:
        self._before_each(self)
        self._disk.link(source, target)
        self._change((target, self._node(source)))

    def unlink(self, path: Path) -> None:
        self._before_each(self)
        self._disk.unlink(path)
        self._change((path, None))

    def mkdir(self, path: Path) -> None:
        self._before_each(self)
        self._disk.mkdir(path)
        self._change((path, _Folder()))

    def rmdir(self, path: Path) -> None:
        self._before_each(self)
        self._disk.rmdir(path)
        self._change((path, None))

    @contextmanager
    def lock(self, path: Path, wait_s: float) -> Iterator[None]:
        self._before_each(self)
        with self._disk.lock(path, wait_s):
            self._file(path)
            yield

    def free_bytes(self, path: Path) -> int:
        return self._disk.free_bytes(path)

    def _node(self, path: Path) -> _Node:
        node: _Node = self._top
        for part in path.relative_to(self._root).parts:
            assert isinstance(node, _Folder)
            node = node.entries[part]
        return node

    def _file(self, path: Path) -> _File:
        folder = self._node(path.parent)
        assert isinstance(folder, _Folder)
        if path.name not in folder.entries:
            self._change((path, _File(b"")))
        node = folder.entries[path.name]
        assert isinstance(node, _File)
        return node

    def _change(self, *entries: tuple[Path, _Node | None]) -> None:
        changed: dict[tuple[_Folder, str], _Node | None] = {}
        for path, node in entries:
            folder = self._node(path.parent)
            assert isinstance(folder, _Folder)
            if node is None:
                del folder.entries[path.name]
            else:
                folder.entries[path.name] = node
            changed[folder, path.name] = node
        self._pending.append(_Change(changed, {folder for folder, _ in changed}))


def _read(path: Path, seen: dict[int, _File]) -> _Node:
    """What is there survives."""
    if path.is_dir():
        entries = {each.name: _read(each, seen) for each in path.iterdir()}
        return _Folder(entries, dict(entries))
    content = path.read_bytes()
    return seen.setdefault(path.stat().st_ino, _File(content, content))


def _write(
    node: _Node, path: Path, synced: Callable[[_Folder], dict[str, _Node]], loss: Loss, seen: dict[_File, Path]
) -> None:
    if isinstance(node, _Folder):
        path.mkdir()
        for name, each in synced(node).items():
            _write(each, path / name, synced, loss, seen)
    elif node in seen:
        os.link(seen[node], path)
    else:
        path.write_bytes(node.content if node.content == node.synced else loss.content(node.synced, node.content))
        seen[node] = path
