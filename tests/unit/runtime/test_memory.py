"""What loading leaves behind goes back to the system, and nothing that is needed with it."""

from __future__ import annotations

import ctypes
import mmap
import struct
from pathlib import Path

import pytest

from runtime.memory import MappedFile, trim_after_load, use_huge_pages, use_one_heap


def resident_kb(path: Path) -> int:
    """Resident kilobytes of this process's mappings of `path`."""
    lines, total, inside = Path("/proc/self/smaps").read_text().splitlines(), 0, False
    for line in lines:
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_pages_of_a_mapped_file_are_forgotten_and_read_again(tmp_path: Path) -> None:
    """Resident memory falls to nothing; the content is still there."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 4096)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        assert mapped[:] == path.read_bytes()
        assert resident_kb(path) >= 1024
        weights = MappedFile(path)
        for _ in range(2):
            weights.forget()
            assert resident_kb(path) == 0
            assert mapped[:] == path.read_bytes()


def test_pages_that_come_later_are_forgotten_too(tmp_path: Path) -> None:
    """As of the embeddings, which loading need not read."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 4096)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        weights = MappedFile(path)
        assert mapped[:] == path.read_bytes()
        assert resident_kb(path) >= 1024
        weights.forget()
        assert resident_kb(path) == 0


def test_pages_that_were_written_to_stay(tmp_path: Path) -> None:
    """A private change would be lost with its page."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(8192))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        mapped[0] = 7
        MappedFile(path).forget()
        assert mapped[0] == 7


def test_trimming_keeps_pages_that_were_written_before_they_became_read_only(tmp_path: Path) -> None:
    """As a library's relocations are."""
    path = tmp_path / "library"
    path.write_bytes(bytes(8192))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        mapped[0] = 7
        protect = ctypes.CDLL(None).mprotect
        assert protect(ctypes.c_void_p(address_of(mapped)), ctypes.c_size_t(len(mapped)), mmap.PROT_READ) == 0
        trim_after_load()
        assert mapped[0] == 7


def test_trimming_forgets_what_files_were_only_read(tmp_path: Path) -> None:
    """Read-only mappings, such as code, leave resident memory and can be read again; others are not touched."""
    path = tmp_path / "library"
    path.write_bytes(bytes(range(256)) * 4096)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == path.read_bytes()
        assert resident_kb(path) >= 1024
        trim_after_load()
        assert resident_kb(path) == 0
        assert mapped[:] == path.read_bytes()


def test_trimming_leaves_shared_mappings_alone(tmp_path: Path) -> None:
    """A GPU's driver has such ones, of its devices, and a page of theirs that is given back is lost."""
    path = tmp_path / "device"
    path.write_bytes(bytes(range(256)) * 4096)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == path.read_bytes()
        trim_after_load()
        assert resident_kb(path) >= 1024


def address_of(mapped: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))


def test_what_took_the_place_of_a_mapping_is_left_alone(tmp_path: Path) -> None:
    """Where the file was mapped something else may be by the time, as when a second session has been closed."""
    path, size = tmp_path / "weights", 1 << 20
    path.write_bytes(b"w" * size)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    where, weights = address_of(mapped), MappedFile(path)
    mapped.close()
    others = [mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(8)]
    for other in others:
        other.write(b"o" * size)
    assert where in map(address_of, others), "no other mapping took its place"
    weights.forget()
    assert all(other[:] == b"o" * size for other in others)


def test_trimming_is_harmless() -> None:
    """Objects survive it."""
    kept = [bytes(1000) for _ in range(1000)]
    use_one_heap()
    trim_after_load()
    assert all(len(each) == 1000 for each in kept)


HUGE_PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")


def resident_pages(mapped: mmap.mmap) -> int:
    """How many pages of it are in memory: of it alone, since the kernel may join it with a mapping beside it."""
    first, count = address_of(mapped) // mmap.PAGESIZE, len(mapped) // mmap.PAGESIZE
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(8 * first)
        entries = struct.unpack(f"<{count}Q", pagemap.read(8 * count))
    return sum(entry >> 63 for entry in entries)  # the top bit: present


@pytest.mark.skipif(not HUGE_PAGE_SIZE.exists(), reason="the kernel has no huge pages")
def test_only_memory_that_is_filled_goes_to_huge_pages() -> None:
    """What it holds stays as it was, and a KV cache of which one page is used takes no more than that."""
    size = int(HUGE_PAGE_SIZE.read_text())
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    filled = mmap.mmap(-1, 4 * size, flags=flags)
    sparse = mmap.mmap(-1, 4 * size, flags=flags | 0x4000)  # MAP_NORESERVE, as the session has it: a mapping of its own
    content = bytes(range(256)) * (4 * size // 256)
    filled.write(content)
    sparse[0] = 7
    before = resident_pages(sparse)  # one, or a huge page where the kernel gives them unasked
    assert resident_pages(filled) == len(filled) // mmap.PAGESIZE
    use_huge_pages()
    assert resident_pages(sparse) == before
    assert filled[:] == content
