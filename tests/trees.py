"""The boards under tests/boards, to be changed as a test wants them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

BOARDS = Path(__file__).parent / "boards"
NAMES = ("raspberry-pi-5", "jetson-orin-nano", "x86")
PI, JETSON, X86 = NAMES

Damage = tuple[str, bytes]
"""What becomes of a file: `missing`, `empty`, `cut`, `bytes` (those given), `folder`, `eio`, `fifo` or `loop`."""


def board(name: str, root: Path) -> Path:
    """A copy of the board's tree in the folder `root`."""
    return Path(shutil.copytree(BOARDS / name, root / name, dirs_exist_ok=True))


def put(root: Path, name: str, content: str | int) -> None:
    """Writes a file of the tree."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def files(name: str) -> list[str]:
    """Names of all files of a board."""
    return sorted(str(path.relative_to(BOARDS / name)) for path in (BOARDS / name).rglob("*") if path.is_file())


def damages(name: str) -> st.SearchStrategy[dict[str, Damage]]:
    """Some files of a board, and what happens to each."""
    kind = st.sampled_from(["missing", "empty", "cut", "bytes", "folder", "eio", "fifo", "loop"])
    text = st.sampled_from(
        [b"-1", b"99999999999999999999999", b"0x7", b"1_0", "\u0663".encode(), b"nan", b"\xff\xfe\x00"]
    )
    return st.dictionaries(st.sampled_from(files(name)), st.tuples(kind, text | st.binary(max_size=60)), max_size=8)


def damage(root: Path, done: dict[str, Damage]) -> None:
    """Does it."""
    for name, (kind, content) in done.items():
        path = root / name
        whole = path.read_bytes()
        path.unlink()
        if kind in _AFTERWARDS:
            _AFTERWARDS[kind](path)
        elif kind != "missing":
            path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "bytes": content}[kind])


def _fifo(path: Path) -> None:
    os.mkfifo(path)


_AFTERWARDS: dict[str, Callable[[Path], None]] = {
    "folder": lambda path: path.mkdir(),
    "eio": lambda path: path.symlink_to("/proc/self/mem"),  # whose first page gives EIO
    "fifo": _fifo,
    "loop": lambda path: path.symlink_to(path),
}
