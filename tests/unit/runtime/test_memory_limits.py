"""What the kernel says of memory, read from trees as it writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.memory_limits import available_bytes, read_group_use, read_memory
from runtime.pressure import MemoryReading

MB = 1 << 20
MEMINFO = "MemTotal:        8000000 kB\nMemFree:          500000 kB\nMemAvailable:    4000000 kB\n"
PSI = "some avg10={} avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n"


def write(root: Path, files: dict[str, str | int]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n" if isinstance(text, int) else text)
    return root


def v2(path: str, *, limit: int | str, used: int, files: int = 0, high: int | str = "max\n") -> dict[str, str | int]:
    """A cgroup below the mount."""
    stat = f"anon {used - files}\nfile {files}\ninactive_file {files}\nactive_file 0\nslab_reclaimable 0\n"
    folder = f"sys/fs/cgroup/{path}"
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.high": high,
        f"{folder}/memory.current": used,
        f"{folder}/memory.stat": stat,
        f"{folder}/memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n",
        f"{folder}/memory.pressure": PSI.format("12.50"),
    }


def test_a_machine_without_cgroups_is_read_by_its_own_figures(tmp_path: Path) -> None:
    """As Raspberry Pi OS has it: the memory controller is off."""
    root = write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/system.slice/edgeqwend.service\n"})
    assert read_memory(root) == MemoryReading(8_000_000 << 10, 4_000_000 << 10, None, 0)
    assert (available_bytes(root), read_group_use(root)) == (4_000_000 << 10, (None, None))


def test_the_limit_that_is_nearest_counts(tmp_path: Path) -> None:
    """Of the unit, of the slice around it, and of the machine; cached files count as free."""
    path = "system.slice/edgeqwend.service"
    tree = {"proc/meminfo": MEMINFO, "proc/self/cgroup": f"0::/{path}\n", "proc/pressure/memory": PSI.format("99.00")}
    write(tmp_path, tree | v2(path, limit=1000 * MB, used=600 * MB, files=100 * MB))
    assert read_memory(tmp_path) == MemoryReading(1000 * MB, 500 * MB, 0.125, 2)
    write(tmp_path, v2("system.slice", limit=3000 * MB, used=2900 * MB))
    assert read_memory(tmp_path) == MemoryReading(3000 * MB, 100 * MB, 0.125, 2)
    assert (available_bytes(tmp_path), read_group_use(tmp_path)) == (100 * MB, (2900 * MB, 3000 * MB))
    write(tmp_path, v2(path, limit="max\n", high=650 * MB, used=700 * MB))
    assert read_memory(tmp_path) == MemoryReading(650 * MB, -50 * MB, 0.125, 2)


def test_the_cgroup_of_a_container_is_at_the_mount(tmp_path: Path) -> None:
    """A namespace shows its own folder as the root."""
    write(tmp_path, {"proc/self/cgroup": "0::/\n"} | v2("", limit=500 * MB, used=100 * MB))
    assert read_memory(tmp_path) == MemoryReading(500 * MB, 400 * MB, 0.125, 2)


def test_version_one_is_read_as_well(tmp_path: Path) -> None:
    """As on JetPack 5, where the memory controller is there and the unified tree has none."""
    folder = "sys/fs/cgroup/memory/system.slice/edgeqwend.service"
    files = {
        "proc/self/cgroup": "4:memory:/system.slice/edgeqwend.service\n1:cpu:/\n0::/system.slice/edgeqwend.service\n",
        f"{folder}/memory.limit_in_bytes": 800 * MB,
        f"{folder}/memory.usage_in_bytes": 700 * MB,
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {50 * MB}\ntotal_active_file {50 * MB}\n",
        f"{folder}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 5000 * MB,
    }
    assert read_memory(write(tmp_path, files)) == MemoryReading(800 * MB, 200 * MB, None, 3)


@pytest.mark.parametrize("text", ["", "nonsense", "0::\n", "0::/../../x\n", "::::\n4:memory\n"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"proc/self/cgroup": text, "proc/meminfo": "MemTotal: x kB\n"})
    assert read_memory(tmp_path) is None


def test_this_machine_says_something() -> None:
    """The real kernel's files parse."""
    reading = read_memory()
    assert reading is not None
    assert 0 < reading.free_bytes < reading.limit_bytes
