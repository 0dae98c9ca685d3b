"""What the system says when disk or memory runs out becomes a sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runtime.errors import BuildError, OutOfDisk, OutOfMemory
from toolchain.exhaustion import available_memory, emptied_when_full, raise_if_exhausted, require_room, said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_place_and_the_need(tmp_path: Path, number: int) -> None:
    """Whichever limit it was; a folder that does not exist yet is on the disk of the nearest that does."""
    with pytest.raises(OutOfDisk) as error, said([tmp_path / "not" / "there"], 3_000_000_000):
        raise OSError(number, os.strerror(number))
    assert error.value.exit_code == 8
    assert str(error.value).startswith("no space left on the disk of ")
    assert "and this build needs about 3.0 GB; make room" in str(error.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OSError: [Errno 28] No space left on device", OutOfDisk),
        ("safetensors_rust.SafetensorError: I/O error: No space left on device (os error 28)", OutOfDisk),
        ("OSError: [Errno 27] File too large: '/x'", OutOfDisk),
        ("MemoryError", OutOfMemory),
        ("terminate called after throwing an instance of 'std::bad_alloc'", OutOfMemory),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", OutOfMemory),
        ("OSError: [Errno 12] Cannot allocate memory", OutOfMemory),
    ],
)
def test_it_is_known_by_the_words_of_all_libraries(tmp_path: Path, text: str, kind: type[BuildError]) -> None:
    """Python's, Rust's, C++'s and torch's."""
    with pytest.raises(kind):
        raise_if_exhausted(text, "Olive", [tmp_path])


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    """Words of other errors are not taken for it, and no bug is hidden."""
    raise_if_exhausted("KeyError: 'model.embed_tokens.weight'", "Olive", [tmp_path])
    with pytest.raises(ValueError, match="a bug"), said([tmp_path]):
        raise ValueError("a bug")
    with pytest.raises(FileNotFoundError), said([tmp_path]):
        (tmp_path / "missing").read_bytes()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """With its name and what to choose instead."""
    (tmp_path / "file").touch()
    words = r"file/cache cannot be written \(Not a directory\): choose another --cache"
    with pytest.raises(BuildError, match=words), said([tmp_path]):
        (tmp_path / "file" / "cache").mkdir()


def test_what_is_certainly_too_little_is_said_at_once(tmp_path: Path) -> None:
    """And what is enough is not."""
    require_room(tmp_path, 1)
    with pytest.raises(OutOfDisk, match=r"this build needs about 1000000\.0 GB"):
        require_room(tmp_path, 10**15)


def test_scratch_files_go_when_the_disk_is_full_and_stay_otherwise(tmp_path: Path) -> None:
    """What was cut short is never gone on with, and what another error left is."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(BuildError), emptied_when_full(scratch):
        raise BuildError("another")
    assert scratch.is_dir()
    with pytest.raises(OSError, match="No space"), emptied_when_full(scratch):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not scratch.exists()


GROUP_OF_2_GB = {
    "memory.max": "2000000000",
    "memory.current": "1500000000",
    "memory.stat": "anon 1\ninactive_file 300\n",
}


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        ("0::/\n", {}, 8_000_000 << 10),
        ("", {"": GROUP_OF_2_GB}, 8_000_000 << 10),
        ("0::/\n", {"": GROUP_OF_2_GB}, 500_000_300),
        ("1:cpu:/x\n0::/build/one\n", {"build": GROUP_OF_2_GB, "build/one": {"memory.max": "max"}}, 500_000_300),
        ("0::/build\n", {"build": GROUP_OF_2_GB | {"memory.max": "9000000000000"}}, 8_000_000 << 10),
        ("0::/build\n", {"build": GROUP_OF_2_GB | {"memory.max": "1000000000"}}, 0),
        ("0::/build\n", {"build": GROUP_OF_2_GB | {"memory.stat": "what?"}}, 8_000_000 << 10),
    ],
)
def test_a_container_has_the_memory_that_its_groups_leave(
    tmp_path: Path, own: str, groups: dict[str, dict[str, str]], expected: int
) -> None:
    """Whichever of them has the least, if that is less than the machine has."""
    files = {"proc/meminfo": "MemTotal: 1 kB\nMemAvailable: 8000000 kB\n", "proc/self/cgroup": own}
    files |= {f"groups/{group}/{name}": said for group, its in groups.items() for name, said in its.items()}
    for name, said_there in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(said_there)
    assert available_memory(tmp_path / "proc", tmp_path / "groups") == expected
