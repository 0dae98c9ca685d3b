"""Files of the store belong to the daemon's user, whoever works on it; root goes nowhere that this user could not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from unit.runtime.store.stocked import BY, add, built, serves, switch

from runtime.disk import LocalDisk
from runtime.errors import StoreBusy, StoreError
from runtime.store.state import roll_back
from runtime.store.store import Store

TESTS = Path(__file__).parents[2]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


def run_as(user: int, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`code` in a process that becomes `user` once it has its modules, which may be root's alone."""
    modules = (
        "import os, sys; from functools import partial; from pathlib import Path; from runtime.disk import *;"
        "from runtime.store.state import *; from runtime.store.store import Store;"
        "from unit.runtime.store.stocked import *;"
    )
    become = f"os.setgroups([]); os.setgid({user}); os.setuid({user});"
    command = [sys.executable, "-c", modules + become + code, *map(str, arguments)]
    environment = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}:{TESTS.parent / 'protos'}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    """As the daemon has it."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody gets to, which is not so of pytest's."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def var(shared: Path) -> Path:
    """The folder of another user."""
    folder = shared / "var"
    folder.mkdir(mode=0o750)
    os.chown(folder, NOBODY, NOBODY)
    return folder


def test_others_may_read_whatever_the_umask_is(narrow_umask: None, tmp_path: Path) -> None:
    """Members of the daemon's group look at the history."""
    disk = LocalDisk()
    disk.mkdir(tmp_path / "a")
    disk.write(tmp_path / "a" / "b", b"1")
    disk.append(tmp_path / "a" / "b", b"2")
    disk.append(tmp_path / "a" / "c", b"3")
    modes = [(tmp_path / "a" / name).stat().st_mode & 0o777 for name in (".", "b", "c")]
    assert [oct(mode) for mode in modes] == ["0o755", "0o644", "0o644"]
    assert (tmp_path / "a" / "b").read_bytes() == b"12"
    disk.write(tmp_path / "a" / "b", b"")
    assert (tmp_path / "a" / "b").read_bytes() == b""


@as_root
def test_what_root_installs_is_the_daemons(narrow_umask: None, var: Path, tmp_path: Path) -> None:
    """Every file and folder, that of the store too; and root is root again."""
    store = Store(var / "store")
    switch(store, add(store, built(tmp_path, "1.0.0")))
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in [store.folder, *store.folder.rglob("*")]}
    assert owners == {(NOBODY, NOBODY)}
    (tmp_path / "mine").write_bytes(b"")
    assert (tmp_path / "mine").stat().st_uid == 0


@as_root
def test_root_and_the_daemons_user_change_it_in_turn(var: Path, tmp_path: Path) -> None:
    """Each takes up what the other left."""
    store = Store(var / "store")
    switch(store, add(store, built(tmp_path, "1.0.0")))
    switch(store, add(store, built(tmp_path, "1.1.0")), keep=False)
    code = (
        "store = Store(Path(sys.argv[1])); store.change(booted); store.change(partial(commit, cause=Cause(1.0, 'it')))"
    )
    done = run_as(NOBODY, code, store.folder)
    assert done.returncode == 0, done.stderr
    assert store.read().committed == {"tiny": "1.1.0"}
    store.change(partial(roll_back, cause=BY))
    assert serves(store) == "1.0.0"


@as_root
def test_a_third_user_is_told_who_may(var: Path, tmp_path: Path) -> None:
    """In one line, and nothing changes."""
    store = Store(var / "store")
    switch(store, add(store, built(tmp_path, "1.0.0")))
    var.chmod(0o755)
    done = run_as(1, "Store(Path(sys.argv[1])).change(booted)", store.folder)
    assert done.stderr.splitlines()[-1].startswith("runtime.errors.StoreError: cannot write to")
    assert "run as root or as the daemon's user" in done.stderr


@as_root
def test_root_follows_no_link_of_the_daemons_user(var: Path, shared: Path) -> None:
    """Neither in a file's place nor on the way there."""
    secret = shared / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").write_bytes(b"root's")
    disk = LocalDisk.for_store(var)
    (var / "link").symlink_to(secret / "file")
    (var / "folder").symlink_to(secret)
    for attempt in (
        lambda: disk.write(var / "link", b"x"),
        lambda: disk.append(var / "link", b"x"),
        lambda: disk.write(var / "folder" / "file", b"x"),
        lambda: disk.unlink(var / "folder" / "file"),
        lambda: disk.mkdir(var / "folder" / "new"),
        lambda: disk.rename(var / "link", var / "folder" / "file"),
        lambda: disk.link(secret / "file", var / "mine"),
        lambda: disk.fsync(var / "link"),
    ):
        with pytest.raises(OSError, match=r"Permission denied|Too many levels|not permitted"):
            attempt()
    assert (secret / "file").read_bytes() == b"root's"
    assert [path.name for path in secret.iterdir()] == ["file"]


@as_root
def test_a_link_in_place_of_the_store_takes_root_nowhere(var: Path, shared: Path) -> None:
    """Nor one on the way there, to what root alone may change; one of root's leads where root says."""
    target = shared / "roots"
    target.mkdir(mode=0o755)
    (var / "link").symlink_to(target)
    os.chown(var / "link", NOBODY, NOBODY, follow_symlinks=False)
    for store in (Store(var / "link"), Store(var / "link" / "store")):
        with pytest.raises(StoreError, match="Permission denied"):
            store.open()
    assert list(target.iterdir()) == []
    os.chown(var / "link", 0, 0, follow_symlinks=False)
    os.chown(target, NOBODY, NOBODY)
    store = Store(var / "link")
    switch(store, add(store, built(shared, "1.0.0")))
    assert serves(store) == "1.0.0"
    assert {path.stat().st_uid for path in target.rglob("*")} == {NOBODY}


@as_root
def test_what_cannot_be_read_is_replaced(var: Path, shared: Path) -> None:
    """As of a bad block, also where other packages have the same file under another name."""
    store = Store(var / "store")
    for version in ("1.0.0", "1.1.0"):
        switch(store, add(store, built(shared, version)))
    package = store.active()
    assert package is not None
    (package / "models/decoder/board/serving.onnx").chmod(0)  # of both
    code = (
        "store = Store(Path(sys.argv[1])); assert not os.access(sys.argv[2], os.R_OK);"
        "[add(store, Path(each), repair=True) for each in sys.argv[3:]]; print(serves(store))"
    )
    damaged = package / "models/decoder/board/serving.onnx"
    done = run_as(NOBODY, code, store.folder, damaged, *sorted(shared.glob("*.ortpackage")))
    assert (done.stdout, done.returncode) == ("1.1.0\n", 0), done.stderr
    assert [entry.event for entry in store.read().history[-2:]] == ["repaired", "repaired"]


@as_root
def test_who_is_not_root_stays_who_it_is(var: Path) -> None:
    """Another owner means nothing to it."""
    done = run_as(
        NOBODY, "disk = LocalDisk((1, 1)); disk.mkdir(Path(sys.argv[1])); print(os.stat(sys.argv[1]).st_uid)", var / "a"
    )
    assert done.stdout == f"{NOBODY}\n"


def test_no_folder_to_be_in_is_said(tmp_path: Path) -> None:
    """Not made: whoever owns it decides who may write there."""
    store = Store(tmp_path / "nowhere" / "store")
    with pytest.raises(StoreError, match="No such file"):
        store.open()
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_that_was_removed_is_none(tmp_path: Path) -> None:
    """Whoever comes next would make another, and both would think that they are alone."""
    path, disk = tmp_path / "lock", LocalDisk()

    def remove_when_another_waits() -> None:
        while _opened(path) < 2:
            pass
        path.unlink()
        os.close(held)

    held = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    thread = threading.Thread(target=remove_when_another_waits)
    thread.start()
    with pytest.raises(StoreBusy, match="try again"), disk.lock(path, 60.0):
        pass
    thread.join()


def _opened(path: Path) -> int:
    """How often this process has it open."""
    count = 0
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            count += handle.readlink() == path
    return count


@as_root
def test_a_disk_without_modes_can_be_written(shared: Path) -> None:
    """As a stick, whose files belong to who mounted it, whoever writes them."""
    file = shared / "f"
    file.touch()
    file.chmod(0o666)
    done = run_as(NOBODY, "LocalDisk().append(Path(sys.argv[1]), b'x')", file)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == b"x"
