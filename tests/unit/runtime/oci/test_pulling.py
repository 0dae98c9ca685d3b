"""A package gets to its place whole, whoever else is at work there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from unit.runtime.oci.remotes import WEIGHTS, MemoryRemote, files_of, offer_from, package_with, source_of
from unit.runtime.tiny_package import edit_build

from runtime.disk import LocalDisk
from runtime.errors import StoreBusy, TransferError
from runtime.oci.pulling import Pulled, pull_into


class MeetingDisk(LocalDisk):
    """Before the package is put in its place, somebody else does something."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    def rename(self, source: Path, target: Path) -> None:
        if source.is_dir():
            self._meanwhile()
        super().rename(source, target)


def pull(package: Path, folder: Path, disk: LocalDisk | None = None) -> Pulled:
    source, _ = source_of(MemoryRemote.of(package))
    return pull_into(folder, source, offer_from(source), disk=disk)


def test_nobody_meddles_before_the_package_is_in_its_place(tmp_path: Path) -> None:
    """Another version of it, which would be put together in the same folder; then that is in the way of nothing."""
    package = package_with(tmp_path / "p", {WEIGHTS: b"weights"})
    other = package_with(tmp_path / "other", {WEIGHTS: b"other weights"})
    edit_build(other, {"version": "2.0.0"})
    busy: list[int] = []

    def meanwhile() -> None:
        with pytest.raises(StoreBusy) as error:
            pull(other, tmp_path / "out")
        busy.append(error.value.exit_code)

    pull(package, tmp_path / "out", MeetingDisk(meanwhile))
    assert busy == [75]
    assert files_of(tmp_path / "out") == {f"tiny.ortpackage/{path}": it for path, it in files_of(package).items()}


def test_what_somebody_else_has_just_brought_is_there(tmp_path: Path) -> None:
    """Between the first look and the lock: it is not fetched again."""
    package = package_with(tmp_path / "p", {WEIGHTS: b"weights"})

    class LateDisk(LocalDisk):
        def lock(self, path: Path, wait_s: float) -> AbstractContextManager[None]:
            pull(package, tmp_path / "out")
            path.parent.mkdir(exist_ok=True)
            return super().lock(path, wait_s)

    assert not pull(package, tmp_path / "out", LateDisk()).changed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.ortpackage"]


def test_a_folder_that_somebody_else_has_just_cleared_is_busy(tmp_path: Path) -> None:
    package = package_with(tmp_path / "p", {})

    class ClearedDisk(LocalDisk):
        def lock(self, path: Path, wait_s: float) -> AbstractContextManager[None]:
            path.parent.rmdir()
            return super().lock(path, wait_s)

    with pytest.raises(StoreBusy, match="try again"):
        pull(package, tmp_path / "out", ClearedDisk())


def test_a_link_that_leads_nowhere_is_in_the_way_too(tmp_path: Path) -> None:
    package = package_with(tmp_path / "p", {})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tiny.ortpackage").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TransferError, match="is there and is not tiny"):
        pull(package, tmp_path / "out")
