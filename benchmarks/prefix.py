"""What prefix reuse saves: time to first token of each turn of a conversation, with and without it.

    python benchmarks/prefix.py                    # Qwen2.5-0.5B's geometry, random weights, INT4
    python benchmarks/prefix.py --package DIR --rounds 20

One daemon, a client whose turns share a scope and one that shares nothing, turn by turn one after the other and each in
turn the first. Times are the daemon's own; medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

from engines import daemon
from machine import machine
from packages import random_package

from edgeqwen.client import Client, Finished, Options

SYSTEM_TOKENS, TURN_TOKENS, ANSWER_TOKENS, TURNS = 512, 48, 32, 4


def measure(target: str, rounds: int) -> list[list[tuple[Finished, Finished]]]:
    """For each turn, the ends of every round: sharing, and not."""
    seen: list[list[tuple[Finished, Finished]]] = [[] for _ in range(TURNS)]
    for number in range(rounds):
        with Client(target) as sharing, Client(target, scope=b"") as fresh:
            history = [300 + (number * 7919 + at * 104729) % 30_000 for at in range(SYSTEM_TOKENS)]
            for turn in range(TURNS):
                history += [300 + (number * 7919 + turn * 31 + at * 15485863) % 30_000 for at in range(TURN_TOKENS)]
                clients = (fresh, sharing) if number % 2 else (sharing, fresh)
                ends = {client: _ask(client, history) for client in clients}
                seen[turn].append((ends[sharing][0], ends[fresh][0]))
                history += ends[sharing][1]
    return seen


def _ask(client: Client, history: list[int]) -> tuple[Finished, tuple[int, ...]]:
    options = Options(max_tokens=ANSWER_TOKENS, ignore_eos=True, temperature=0.0)
    *deltas, end = client.generate(token_ids=history, options=options)
    assert isinstance(end, Finished)
    return end, tuple(token for delta in deltas for token in getattr(delta, "token_ids", ()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="a package to measure; default: random weights, built here")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with daemon(options.package or random_package(), options.threads) as served:
        measure(served.target, 1)  # warm up
        seen = measure(served.target, options.rounds)
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.threads} threads, {options.rounds} rounds\n")
    print("| turn | prompt tokens | of them cached | first token, fresh | first token, reused | fresh / reused |")
    print("|---|---|---|---|---|---|")
    median = statistics.median
    for turn, ends in enumerate(seen, 1):
        fresh, reused = ([pair[side].time_to_first_token_ms for pair in ends] for side in (1, 0))
        ratio = median(f / r for f, r in zip(fresh, reused, strict=True))
        cached = median(pair[0].cached_prompt_tokens for pair in ends)
        cells = (f"{cached:.0f}", f"{median(fresh):.0f} ms", f"{median(reused):.0f} ms", f"{ratio:.1f}")
        print(f"| {turn} | {ends[0][0].prompt_tokens} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
