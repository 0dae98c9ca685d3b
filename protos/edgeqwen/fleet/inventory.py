"""Which boards there are: Ansible's inventory, as Ansible itself understands it, or a list of targets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .board import Board, Inventory, InventoryError, natural
from .hosts import TARGET, Identity, boards_of, connection_of

MAX_BYTES = 64 << 20
MAX_BOARDS = 100_000
ANSIBLE_TIMEOUT_S = 300.0

_ANSIBLE = "ansible-inventory"
_LIST_SUFFIX = ".txt"
_STDIN = "-"
_REFUSES_NONSENSE = {"ANSIBLE_INVENTORY_UNPARSED_FAILED": "1", "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1"}


def read_inventory(source: str, identity: Identity) -> Inventory:
    """The boards of `source`.

    A file with the suffix .txt has a target a line, or a name and a target; JSON with a `_meta` is what
    `ansible-inventory --list` printed; "-" reads one of both from standard input. Everything else (YAML, INI, a folder,
    a program, a plugin's configuration) is Ansible's to understand: `ansible-inventory` is asked.

    Raises InventoryError.
    """
    inventory = _read(source, identity)
    if not inventory.boards:
        why = f": none of its {len(inventory.left_out)} hosts has {TARGET}" if inventory.left_out else ""
        raise InventoryError(f"{source}: there is no board in it{why}")
    if len(inventory.boards) > MAX_BOARDS:
        raise InventoryError(f"{source}: {len(inventory.boards)} boards, at most {MAX_BOARDS}")
    return inventory


def _read(source: str, identity: Identity) -> Inventory:
    path = Path(source)
    if path.is_dir():
        return _of_json(source, _asked_of_ansible(source), identity, path)
    content = _content(source)
    if content.lstrip().startswith(b"{") and b'"_meta"' in content:
        return _of_json(source, _decoded(source, content), identity, Path.cwd() if source == _STDIN else path.parent)
    if source == _STDIN or path.suffix == _LIST_SUFFIX:
        return _of_lines(source, _decoded(source, content), identity)
    return _of_json(source, _asked_of_ansible(source), identity, path.parent)


def _content(source: str) -> bytes:
    """Read once: it may be a pipe."""
    try:
        if source == _STDIN:
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with Path(source).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InventoryError(f"cannot read {source}: {error.strerror}") from error


def _decoded(source: str, content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise InventoryError(f"{source}: it is larger than {MAX_BYTES >> 20} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InventoryError(f"{source}: it is not UTF-8 text (byte {error.start})") from error


def _of_json(source: str, text: str, identity: Identity, folder: Path) -> Inventory:
    try:
        return boards_of(json.loads(text), identity, folder.absolute())
    except InventoryError as error:
        raise InventoryError(f"{source}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InventoryError(f"{source}: it is not JSON: {error}") from error


def _of_lines(source: str, text: str, identity: Identity) -> Inventory:
    """`TARGET` or `NAME TARGET` a line; what follows a # is a remark."""
    boards: dict[str, Board] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if len(words) > 2:
                raise InventoryError("a line is TARGET, or NAME TARGET")
            board = Board(words[0], connection_of(words[-1], identity))
            if board.name in boards:
                raise InventoryError(f"{board.name} is there already")
        except ValueError as error:
            raise InventoryError(f"{source}, line {number}: {error}") from error
        boards[board.name] = board
    return Inventory(tuple(sorted(boards.values(), key=lambda board: natural(board.name))))


def _asked_of_ansible(source: str) -> str:
    """What `ansible-inventory --list` prints: the one on the PATH, else the one beside this Python."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which(_ANSIBLE) or shutil.which(_ANSIBLE, path=beside)
    if program is None:
        raise InventoryError(
            f"{source} is Ansible's to read, and {_ANSIBLE} is not here: pip install 'edgeqwen[fleet]', or give what"
            f" `{_ANSIBLE} -i {source} --list` prints elsewhere, or a list of targets in a {_LIST_SUFFIX} file"
        )
    try:
        done = subprocess.run(
            [program, "-i", source, "--list"],
            env=os.environ | _REFUSES_NONSENSE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSIBLE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InventoryError(f"{source}: {_ANSIBLE} was not done after {ANSIBLE_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        raise InventoryError(f"{source}: {_ANSIBLE} refuses it: {_reason(done.stderr.decode(errors='replace'))}")
    return _decoded(source, done.stdout)


def _reason(said: str) -> str:
    """The first of Ansible's complaints, without what it tried; the later ones follow from it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it does not say why"]
    first = next((line for line in lines if line.startswith(("[WARNING]", "[ERROR]"))), lines[-1])
    return re.sub(r"^\[\w+\]:[ *]*(Failed to parse .*? plugin: )?", "", first)[:500]
