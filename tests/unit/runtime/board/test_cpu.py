"""Which processor it is, read from files as boards have them."""

from __future__ import annotations

from pathlib import Path

from runtime.board.cpu import OtherPrograms, read_cpu

ARM = """\
processor\t: {}
BogoMIPS\t: 108.00
Features\t: fp asimd asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: {}
CPU part\t: {}
CPU revision\t: 1

"""


def make(root: Path, cpuinfo: str, cores: dict[int, dict[str, str]]) -> Path:
    files = {
        f"sys/devices/system/cpu/cpu{number}/{name}": text for number, of in cores.items() for name, text in of.items()
    }
    for name, text in {"proc/cpuinfo": cpuinfo, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_four_equal_cores(tmp_path: Path) -> None:
    """A Raspberry Pi 5: the highest frequency stands for what the kernel does not tell."""
    cpuinfo = (
        "".join(ARM.format(n, "0x4", "0xd0b") for n in range(4)) + "Revision\t: c04170\nModel\t\t: Raspberry Pi 5\n"
    )
    root = make(tmp_path, cpuinfo, {n: {"cpufreq/cpuinfo_max_freq": "2400000"} for n in range(4)})
    cpu = read_cpu(root, {0, 1, 2, 3})
    assert cpu.capacities == (2_400_000,) * 4
    assert cpu.identity == "0x41 8 0x4 0xd0b 1; 4 x 2400000"


def test_fast_and_slow_cores(tmp_path: Path) -> None:
    """Both kinds are named, and the fast ones come first whatever their numbers."""
    cpuinfo = "".join(ARM.format(n, "0x2", "0xd05") for n in range(4)) + "".join(
        ARM.format(n, "0x4", "0xd0b") for n in range(4, 8)
    )
    cores = {n: {"cpu_capacity": "430" if n < 4 else "1024", "cpufreq/cpuinfo_max_freq": "1800000"} for n in range(8)}
    root = make(tmp_path, cpuinfo, cores)
    cpu = read_cpu(root, set(range(8)))
    assert cpu.capacities == (1024,) * 4 + (430,) * 4
    assert cpu.identity == "0x41 8 0x2 0xd05 1 + 0x41 8 0x4 0xd0b 1; 4 x 1024, 4 x 430"
    assert read_cpu(root, {4, 5}).identity == "0x41 8 0x4 0xd0b 1; 2 x 1024"


def test_two_threads_of_a_core_are_one(tmp_path: Path) -> None:
    """As x86 processors have them; a thread that may not be used does not count."""
    block = "processor\t: {}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 154\n"
    block += "model name\t: N100\nstepping\t: 3\n\n"
    cores = {n: {"topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}"} for n in range(4)}
    root = make(tmp_path, "".join(block.format(n) for n in range(4)), cores)
    assert read_cpu(root, {0, 1, 2, 3}).identity == "GenuineIntel 6 154 3 N100; 2 x 1"
    assert read_cpu(root, {0, 2}).capacities == (1,)


def test_a_kernel_that_tells_nothing(tmp_path: Path) -> None:
    """The cores are counted all the same."""
    assert read_cpu(tmp_path, {0, 1}).identity == "unknown; 2 x 1"


def test_this_machine() -> None:
    """It has a name and a core, and is the same when asked again."""
    cpu = read_cpu()
    assert cpu.capacities
    assert cpu.identity == read_cpu().identity


def test_what_other_programs_use(tmp_path: Path) -> None:
    """Idle time and waiting for a disk are no use of the cores."""
    stat = tmp_path / "proc/stat"
    stat.parent.mkdir()
    stat.write_text("cpu  1000000 0 0 1000000 0 0 0 0 0 0\ncpu0 0\n")
    others = OtherPrograms(tmp_path)
    stat.write_text("cpu  2000000 0 0 1500000 2500000 0 0 0 0 0\ncpu0 0\n")
    assert abs(others.busy_share() - 0.25) < 0.01
