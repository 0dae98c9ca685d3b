"""What adapters cost: the session alone, all cases interleaved in one run.

    python benchmarks/adapters.py                  # Qwen2.5-0.5B's geometry, random weights, INT4
    python benchmarks/adapters.py --package DIR --rank 32 --rounds 10

A graph that takes adapters, of the attention's q and v or of every projection, without one in use and with a random
one, against the graph that takes none. Figures are medians of the rounds, in ms for all rows; ratios, to the plain
graph, are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from machine import machine
from packages import CACHE, random_package

from runtime.package import PROJECTIONS, Package
from runtime.sessions.adapters import LORA_A, LORA_B, read_adapter, write_adapter
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk
from toolchain.graphs.surgery import adapter_sites, make_adapter_graph

TARGETS = {"q, v": ("q_proj", "v_proj"), "all": PROJECTIONS}
NAMES = ("one", "two")
DEPTH = 64
STEPS = 16


class Case:
    """A session and the adapters that its runs have: of one, or half of the rows each of two."""

    def __init__(self, session: OrtSession, *adapters: str | None) -> None:
        self._session = session
        self._adapters = adapters

    def decode(self, rows: int) -> None:
        """A token of each row. With more adapters than rows, those that are left over get none."""
        share = max(1, rows // len(self._adapters))
        for number, adapter in enumerate(self._adapters[:rows]):
            slots = range(number * share, (number + 1) * share)
            self._session.run([Chunk(slot, [500], DEPTH) for slot in slots], adapter=adapter)

    def prefill(self) -> None:
        self._session.run([Chunk(0, range(300, 300 + DEPTH), 0)], adapter=self._adapters[0])


@contextmanager
def cases(package: Package, rank: int, threads: int) -> Iterator[dict[str, Case]]:
    """Graphs and adapters are made in a folder that goes at the end."""
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        for path in package.variant_dir.glob("*.data"):
            os.link(path, folder / path.name)
        plain = Path(shutil.copy(package.serving_graph, folder))

        def load(graph: Path, *files: Path) -> OrtSession:
            adapters = [read_adapter(each, file) for each, file in zip(NAMES, files, strict=False)]
            return OrtSession(graph, slots=4, context_tokens=512, threads=threads, adapters=adapters)

        made = {"plain graph": Case(load(plain), None)}
        for label, targets in TARGETS.items():
            graph = make_adapter_graph(plain, targets)
            file = _random_adapter(graph, rank, folder)
            session = load(graph, file, file)
            made[f"takes {label}; none used"] = Case(session, None)
            made[f"takes {label}; one used, {file.stat().st_size / 1e6:.0f} MB"] = Case(session, "one")
            made[f"takes {label}; two used, half the rows each"] = Case(session, *NAMES)
        yield made


def _random_adapter(graph: Path, rank: int, folder: Path) -> Path:
    rng = np.random.default_rng(0)
    tensors = {}
    for site in adapter_sites(graph):
        ranks = rank * len(site.projections)
        tensors[site.name + LORA_A] = rng.standard_normal((site.inputs, ranks), np.float32) * 0.01
        tensors[site.name + LORA_B] = rng.standard_normal((ranks, site.outputs), np.float32) * 0.01
    file = folder / f"{graph.stem}.onnx_adapter"
    write_adapter(file, tensors, "0" * 64)
    return file


def _timed(run: Callable[[], None], times: int) -> float:
    """Milliseconds a call."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) * 1e3 / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="a package to measure; default: random weights, built here")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    package = Package.open(options.package or random_package(), verify=False)
    measures: dict[str, Callable[[Case], float]] = {
        "decode, 1 row": lambda case: _timed(lambda: case.decode(1), STEPS),
        "decode, 4 rows": lambda case: _timed(lambda: case.decode(4), STEPS // 2),
        f"prefill, {DEPTH} tokens": lambda case: _timed(case.prefill, 1),
    }
    seen: dict[tuple[str, str], list[float]] = {}
    with cases(package, options.rank, options.threads) as made:
        for number in range(-1, options.rounds):
            order = list(made)[number % len(made) :] + list(made)[: number % len(made)]
            for what, measure in measures.items():
                for name in order:
                    if number >= 0:  # the first warms up
                        seen.setdefault((what, name), []).append(measure(made[name]))
                    else:
                        measure(made[name])
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.threads} threads, {options.rounds} rounds,", end=" ")
    print(f"rank {options.rank}\n\n| | {' | '.join(measures)} |\n|---|{'---|' * len(measures)}")
    for name in made:
        cells = []
        for what in measures:
            times, plain = seen[what, name], seen[what, "plain graph"]
            ratio = statistics.median(mine / its for mine, its in zip(times, plain, strict=True))
            cells.append(f"{statistics.median(times):.1f} ({ratio:.3f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
