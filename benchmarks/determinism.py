"""What `deterministic` costs: the time of a step with it against one without, by how many rows decode.

    python benchmarks/determinism.py                    # the reference checkpoint at INT4
    python benchmarks/determinism.py --package DIR --rounds 40

A deterministic run computes an even number of tokens, so an odd number of rows pays for one more. Both kinds take
turns, each in turn the first; medians over the rounds, of the ratio too.
"""

from __future__ import annotations

import statistics
import time

from machine import machine
from speculation import begin

from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk

ROWS = (1, 2, 3, 4, 5, 6, 7, 8)
DEPTH, STEPS = 41, 8


def seconds(session: OrtSession, rows: int, *, deterministic: bool) -> float:
    """Of a step, the mean of several."""
    start = time.perf_counter()
    for step in range(STEPS):
        chunks = [Chunk(row, [500 + row], DEPTH + step) for row in range(rows)]
        session.run(chunks, deterministic=deterministic)
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    options, _, session = begin(__doc__, rounds=20, slots=ROWS[-1], precision="int4")
    for row in ROWS:
        session.run([Chunk(row - 1, range(300, 300 + DEPTH), 0)])
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.threads} threads, {options.rounds} rounds\n")
    print("| rows | ms a step | deterministic | ratio |")
    print("|---|---|---|---|")
    for rows in ROWS:
        times: dict[bool, list[float]] = {False: [], True: []}
        for number in range(options.rounds + 1):
            for deterministic in (False, True) if number % 2 else (True, False):
                its = seconds(session, rows, deterministic=deterministic)
                if number:  # the first is to warm up
                    times[deterministic].append(its)
        ratio = statistics.median(with_ / without for without, with_ in zip(*times.values(), strict=True))
        plain, even = (1e3 * statistics.median(its) for its in times.values())
        print(f"| {rows} | {plain:.2f} | {even:.2f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
