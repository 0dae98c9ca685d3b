"""The limit that counts is that of the group which has least left."""

from __future__ import annotations

from pathlib import Path

from runtime.cgroup import read_memory_use


def group(root: Path, path: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(f"{text}\n")


def test_a_machine_without_groups_has_no_limit(tmp_path: Path) -> None:
    """Or with those of version 1 only."""
    assert read_memory_use(tmp_path) == (None, None)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/x\n")
    assert read_memory_use(tmp_path) == (None, None)


def test_limits_of_the_unit_and_of_what_it_is_in(tmp_path: Path) -> None:
    """`memory.high` where it is lower; a slice that is nearly full counts more than a unit that is not."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/edgeqwend.service\n")
    unit = "system.slice/edgeqwend.service"
    group(tmp_path, unit, memory_max="max", memory_high="max", memory_current="500")
    assert read_memory_use(tmp_path) == (None, None)
    group(tmp_path, unit, memory_max="1000", memory_high="max", memory_current="500")
    assert read_memory_use(tmp_path) == (500, 1000)
    group(tmp_path, unit, memory_high="800")
    assert read_memory_use(tmp_path) == (500, 800)
    group(tmp_path, "system.slice", memory_max="3000", memory_current="2900")
    assert read_memory_use(tmp_path) == (2900, 3000)
