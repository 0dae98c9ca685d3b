"""What fewer rows, fewer threads and rests give up and save: tokens/s, busy cores, and processor time for a token.

    python benchmarks/power.py                    # the reference checkpoint at INT4
    python benchmarks/power.py --package DIR --rounds 9

Busy cores stand for power, which most machines do not tell. Each round measures every case once; medians. Then how long
a change of the number of threads holds up the streams.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict

from machine import machine
from speculation import begin

from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk

ROWS = (8, 4, 2, 1)
SHARES = (1.0, 0.5)
DEPTH, SECONDS, MOST_STEPS = 41, 0.7, 400


def decode(session: OrtSession, rows: int, share: float) -> tuple[float, float, float]:
    """Tokens/s, busy cores, and milliseconds of processor time for a token."""
    wall_s, cpu_s, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall_s < SECONDS and steps < MOST_STEPS:
        began_s = time.perf_counter()
        session.run([Chunk(row, [500 + row], DEPTH + steps) for row in range(rows)])
        steps += 1
        if share < 1:
            time.sleep((time.perf_counter() - began_s) * (1 - share) / share)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return steps * rows / wall_s, cpu_s / wall_s, 1e3 * cpu_s / (steps * rows)


def main() -> None:
    options, _, session = begin(__doc__, rounds=5, slots=ROWS[0], precision="int4")
    for row in range(ROWS[0]):
        session.run([Chunk(row, range(300, 300 + DEPTH), 0)])
    found: dict[tuple[int, int, float], list[tuple[float, float, float]]] = defaultdict(list)
    changes_s: list[float] = []
    counts = sorted({options.threads, max(1, options.threads // 2)}, reverse=True)
    for number in range(options.rounds + 1):
        for threads in counts:
            began_s = time.perf_counter()
            session.limit_threads(threads)
            session.run([Chunk(0, [5], DEPTH)])
            if number:  # the first round is to warm up
                changes_s.append(time.perf_counter() - began_s)
            for rows in ROWS:
                for share in SHARES:
                    measured = decode(session, rows, share)
                    if number:
                        found[threads, rows, share].append(measured)
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.rounds} rounds\n")
    print("| threads | rows | share of the time | tokens/s | busy cores | ms of processor time a token |")
    print("|---|---|---|---|---|---|")
    for (threads, rows, share), its in sorted(found.items(), reverse=True):
        rate, cores, cost = (statistics.median(column) for column in zip(*its, strict=True))
        print(f"| {threads} | {rows} | {share:g} | {rate:.0f} | {cores:.2f} | {cost:.2f} |")
    print(f"\na change of threads, the step after it included: {statistics.median(changes_s):.2f} s")


if __name__ == "__main__":
    main()
