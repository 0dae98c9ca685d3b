"""The arithmetic of docs/fleet.md: what a fleet asks of registries, links, controllers, Prometheus and flash.

python benchmarks/fleet_figures.py            prints the tables
python benchmarks/fleet_figures.py --write    writes them into the guide; a test compares
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

GUIDE = Path(__file__).parents[1] / "docs" / "fleet.md"

BOARDS = 10_000

# Measured: what is where, when and on what is in the guide.
PACKAGES = {
    "reference checkpoint (135M), INT4": 109_926_107,
    "Qwen2.5-0.5B, INT4": 378_311_119,
    "Qwen3-0.6B, INT4": 474_535_330,
}
PACKAGE_BYTES = PACKAGES["Qwen2.5-0.5B, INT4"]
BUILD_JSON_BYTES = 5_410
SCRAPE_BYTES, SCRAPE_SERIES = 28_532, 229
STATUS_CPU_S = 1.35e-3
TASK_CPU_S = 0.18
STATE_BYTES = 150_000
POLL_BYTES = 7_300

# Assumed: change them to yours, and run this again.
REGISTRY_BITS = 1e9
BOARD_BITS = 10e6
SITE_BITS, SITE_BOARDS = 20e6, 50
MANIFEST_BYTES, SIGNATURE_BYTES = 10_000, 10_000
WAVES = ("1", "10%", "50%", "100%")
"""As Ansible's `serial` has them: boards, or a share of all; the last takes who is left."""
TASKS, TASK_S, CONTROLLER_CORES = 16, 1.0, 8
"""Tasks of the rollout for each board, what one takes over ssh, and the cores of the machine that Ansible runs on."""
SWITCH_S, TRIAL_S = 30, 600
"""Until a board has loaded the package and tried it, and for how long it is on trial then."""
POLL_S, CLOCKS_S = 900, 1.0
"""How often boards look for another package, and how far their clocks are apart."""
SERIES_MEMORY_BYTES, SAMPLE_BYTES, KEPT_DAYS = 4_000, 1.5, 15
FLASH_BYTES, FLASH_CYCLES = 16e9, 3_000
UPDATES_A_YEAR = 52
CHANGES_OF_STATE = 6
ROUND_TRIP_S, ROUND_TRIPS = 0.1, 4
STATUS_TIMEOUT_S, AWAY = 5.0, 0.01

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def packages() -> Table:
    """bytes of all = boards x bytes of one; time = bits / registry's bits a second."""
    rows = []
    for name, count in PACKAGES.items():
        everyone = BOARDS * count
        rows.append([name, f"{count / 1e6:.0f} MB", f"{everyone / 1e12:.2f} TB", hours(everyone * 8 / REGISTRY_BITS)])
    changed = delta_bytes()
    rows.append(
        [
            "other build.json, same weights",
            f"{changed / 1e3:.0f} kB",
            f"{BOARDS * changed / 1e9:.2f} GB",
            hours(BOARDS * changed * 8 / REGISTRY_BITS),
        ]
    )
    return ("what is new", "a board", "all boards", "the registry sends for"), rows


def delta_bytes() -> int:
    """What a board fetches if only build.json has changed: that, its manifest and its signature."""
    return BUILD_JSON_BYTES + MANIFEST_BYTES + SIGNATURE_BYTES


def wave_sizes(boards: int = BOARDS) -> list[int]:
    """Boards of each wave."""
    sizes: list[int] = []
    for wave in WAVES:
        wanted = boards * int(wave[:-1]) // 100 if wave.endswith("%") else int(wave)
        sizes.append(min(wanted, boards - sum(sizes)))
    return sizes


def fetch_s(boards: int, forks: int, package_bytes: float = PACKAGE_BYTES, *, mirrors: bool = False) -> float:
    """`forks` boards fetch at a time, those of a site together, as they stand in the inventory.

    Args:
        mirrors: whether each site has one, which fetches once, and gives on what comes.
    """
    boards_at_once = min(forks, boards)
    sites_at_once = math.ceil(boards_at_once / SITE_BOARDS)
    share_a_link = 1 if mirrors else min(boards_at_once, SITE_BOARDS)
    ask_the_registry = sites_at_once if mirrors else boards_at_once
    rate = min(BOARD_BITS, SITE_BITS / share_a_link, REGISTRY_BITS / ask_the_registry)
    return math.ceil(boards / forks) * package_bytes * 8 / rate


def wave_s(boards: int, forks: int, package_bytes: float = PACKAGE_BYTES, *, mirrors: bool = False) -> float:
    """Fetching, the tasks over ssh, switching, and the trial, which all boards of the wave have at the same time."""
    rounds = math.ceil(boards / forks)
    tasks_s = max(rounds * TASKS * TASK_S, boards * TASKS * TASK_CPU_S / CONTROLLER_CORES)
    return fetch_s(boards, forks, package_bytes, mirrors=mirrors) + tasks_s + rounds * SWITCH_S + TRIAL_S


def waves() -> Table:
    """rounds = boards / forks; time = rounds x (bits / rate + switch) + rounds x tasks (or CPU) + trial."""
    sizes = wave_sizes()
    parts = [(str(at), [size]) for at, size in enumerate(sizes, 1)] + [("all", sizes)]
    rows = []
    for name, part in parts:
        times = [
            sum(wave_s(size, forks, mirrors=mirrors) for size in part)
            for mirrors in (False, True)
            for forks in (50, 200)
        ]
        times.append(sum(wave_s(size, 200, delta_bytes()) for size in part))
        rows.append([name, str(sum(part)), *map(hours, times)])
    mirrored = [f"{forks} forks, a mirror a site" for forks in (50, 200)]
    return ("wave", "boards", "50 forks", "200 forks", *mirrored, "200 forks, other build.json"), rows


def links() -> Table:
    """time = bits / bits a second; a site shares one link, and a mirror in it is fetched into once."""
    rows = []
    for bits in (1e6, 5e6, 10e6, 50e6, 100e6):
        alone = PACKAGE_BYTES * 8 / bits
        rows.append(
            [
                f"{bits / 1e6:.0f} Mbit/s",
                hours(alone),
                hours(alone * SITE_BOARDS),
                hours(alone),
                hours(delta_bytes() * 8 / bits * SITE_BOARDS),
            ]
        )
    site = f"a site of {SITE_BOARDS}"
    return ("link", "one board", site, f"{site}, with a mirror", f"{site}, other build.json"), rows


def polls() -> Table:
    """with jitter = boards / interval; without = boards / spread of the clocks."""
    rows = []
    for interval_s in (60, 300, POLL_S, 3600):
        a_day = 86_400 / interval_s
        rows.append(
            [
                hours(interval_s),
                f"{BOARDS / interval_s:.1f}/s",
                f"{BOARDS / CLOCKS_S:.0f}/s",
                f"{a_day * POLL_BYTES / 1e6:.2f} MB",
                f"{BOARDS * a_day * POLL_BYTES / 1e9:.1f} GB",
            ]
        )
    return ("every", "with jitter", "without", "a board and day", "all a day"), rows


def prometheus() -> Table:
    """samples/s = boards x series / interval; link = boards x bytes of a page / interval; memory = series x 4 kB."""
    rows = []
    for interval_s in (15, 60, 300):
        samples = BOARDS * SCRAPE_SERIES / interval_s
        rows.append(
            [
                f"{interval_s} s",
                f"{samples / 1e3:.0f} k/s",
                f"{BOARDS * SCRAPE_BYTES * 8 / interval_s / 1e6:.0f} Mbit/s",
                f"{SCRAPE_BYTES * 86_400 / interval_s / 1e6:.0f} MB",
                f"{BOARDS * SCRAPE_SERIES * SERIES_MEMORY_BYTES / 1e9:.1f} GB",
                f"{samples * SAMPLE_BYTES * KEPT_DAYS * 86_400 / 1e9:.0f} GB",
            ]
        )
    kept = f"disk for {KEPT_DAYS} days"
    return ("scraped every", "samples", "link of Prometheus", "a board and day", "memory", kept), rows


def flash() -> Table:
    """wear of a year = bytes written in it / (size x cycles)."""
    rows = []
    for name, update in (("a package", PACKAGE_BYTES), ("other build.json", delta_bytes())):
        written = UPDATES_A_YEAR * (update + CHANGES_OF_STATE * STATE_BYTES)
        rows.append([name, f"{written / 1e9:.2f} GB", f"{written / (FLASH_BYTES * FLASH_CYCLES):.4%}"])
    return (f"{UPDATES_A_YEAR} updates a year, each of", "written", "of the flash's life"), rows


def status_s(boards: int, parallel: int) -> float:
    """The boards' round trips or this processor, whichever takes longer; then those that are away."""
    here = boards * STATUS_CPU_S
    there = boards * ROUND_TRIP_S * ROUND_TRIPS / parallel
    return max(here, there) + boards * AWAY * STATUS_TIMEOUT_S / parallel


def status() -> Table:
    """time = max(boards x CPU, boards x round trips / parallel) + boards away x timeout / parallel."""
    rows = [
        [str(boards), *(hours(status_s(boards, parallel)) for parallel in (64, 256))] for boards in (100, 1_000, BOARDS)
    ]
    return ("boards", "--parallel 64", "--parallel 256"), rows


def hours(seconds: float) -> str:
    """As people say times."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


TABLES: dict[str, Callable[[], Table]] = {
    each.__name__: each for each in (packages, waves, links, polls, prometheus, flash, status)
}


def rendered(name: str) -> str:
    """A table as Markdown, below its formula."""
    made = TABLES[name]
    head, rows = made()
    lines = [head, ["---:" if at else "---" for at in range(len(head))], *rows]
    return "\n".join([f"`{made.__doc__}`", "", *("| " + " | ".join(line) + " |" for line in lines)])


def with_tables(guide: str) -> str:
    """The guide, with each table where its mark is."""

    def filled(found: re.Match[str]) -> str:
        return f"<!-- figures: {found[1]} -->\n{rendered(found[1])}\n<!-- end -->"

    return re.sub(r"<!-- figures: (\w+) -->\n.*?<!-- end -->", filled, guide, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/fleet.md")
    if parser.parse_args().write:
        GUIDE.write_text(with_tables(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    print("\n\n".join(rendered(name) for name in TABLES))


if __name__ == "__main__":
    main()
