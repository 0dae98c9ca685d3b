"""What an int8 KV cache does to speed, at several depths: the session alone, both types interleaved in one run.

    python benchmarks/kv_dtype.py                  # Qwen2.5-0.5B's geometry, random weights, INT4
    python benchmarks/kv_dtype.py --rounds 10 --depths 41 656 2000 --rows 1 8

Prefill is in chunks as the profile has them. Medians of the rounds; ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import yaml
from machine import machine
from packages import CACHE, PROFILE, ROOT, build, random_checkpoint

from runtime.package import Package
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk

DTYPES = ("float32", "int8")
STEPS = 16


def packages() -> dict[str, Path]:
    """The random checkpoint with either type, built here; its scales are of some text, which speed does not see."""
    checkpoint, text = random_checkpoint(), ROOT / "docs" / "serving.md"
    found = {}
    for dtype in DTYPES:
        profile = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
        profile["runtime"]["kv_cache"]["dtype"] = dtype
        profile["name"] += f"-kv-{dtype}"
        path = CACHE / f"{profile['name']}.yaml"
        path.write_text(yaml.safe_dump(profile), encoding="utf-8")
        found[dtype] = build(checkpoint, path, CACHE / profile["name"], "--calibration", text)
    return found


def measure(session: OrtSession, depth: int, rows: int, chunk: int) -> tuple[float, float]:
    """Prompt tokens/s of one row, and tokens/s of `rows` that decode together, at `depth` tokens."""
    start = time.perf_counter()
    for at in range(0, depth, chunk):
        session.run([Chunk(0, range(300, 300 + min(chunk, depth - at)), at)])
    prefill_s = time.perf_counter() - start
    for slot in range(1, rows):
        session.copy(0, slot, depth)
    start = time.perf_counter()
    for step in range(STEPS):
        session.run([Chunk(row, [500], depth + step) for row in range(rows)])
    return depth / prefill_s, STEPS * rows / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--depths", type=int, nargs="+", default=[41, 656, 2000])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    opened = {dtype: Package.open(path, verify=False) for dtype, path in packages().items()}
    chunk = opened["int8"].build.profile.runtime.prefill_chunk_tokens
    sessions = [
        OrtSession(p.serving_graph, slots=max(options.rows), context_tokens=4096, threads=options.threads)
        for p in opened.values()
    ]
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.threads} threads, {options.rounds} rounds\n")
    print("| depth, rows | prefill float32 | int8 | ratio | decode float32 | int8 | ratio |")
    print("|---|---|---|---|---|---|---|")
    median = statistics.median
    for depth in options.depths:
        for rows in options.rows:
            runs = [[measure(session, depth, rows, chunk) for session in sessions] for _ in range(options.rounds + 1)]
            cells = []
            for kind in (0, 1):
                pairs = [(plain[kind], small[kind]) for plain, small in runs[1:]]  # the first warms up
                cells += [f"{median(side):.1f}" for side in zip(*pairs, strict=True)]
                cells.append(f"{median(small / plain for plain, small in pairs):.2f}")
            print(f"| {depth}, {rows} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
