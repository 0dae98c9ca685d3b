"""A real daemon under rising load, to the point where it refuses and past it.

    python benchmarks/load.py                # five minutes; writes docs/benchmarks/load.{json,md,svg}
    python benchmarks/load.py --quick        # one minute, writes nothing

First, eight clients that each wait for their answer say how many requests a second the daemon can take. Then requests
come at shares of that rate as a Poisson process has them, from processes of their own, whatever has become of those
before; all times count from when a request was due. What the queue has no place for is refused at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from engines import SLOTS, daemon
from load_figures import GOOD_FIRST_S, GOOD_TOKEN_S, Outcome, Planned, Sample, figures, plan
from machine import machine
from packages import ROOT, reference_package

from edgeqwen.client import AsyncClient, Client, Options

SHARES, QUICK_SHARES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0), (0.5, 1.0, 2.0)
CLIENTS = 2
QUEUE_LIMIT = 32
OUT = ROOT / "docs" / "benchmarks" / "load.json"
_SAMPLE_EVERY_S = 0.5
_LEAD_S = 0.2
_LEAST = 40


async def capacity(target: str, seconds: float) -> float:
    """Requests/s of eight clients that each wait for the end of one before they send the next: so long, and so many."""
    requests = iter(plan(100.0, 100.0, seed=0))
    start_s, done = time.monotonic(), 0

    async def use(client: AsyncClient) -> None:
        nonlocal done
        for each in requests:
            if done >= _LEAST and time.monotonic() - start_s > seconds:
                return
            options = Options(max_tokens=each.tokens, ignore_eos=True, temperature=0.0)
            async for _ in client.generate(token_ids=each.prompt, options=options):
                pass
            done += 1

    async with AsyncClient(target, scope=b"") as client:
        await asyncio.gather(*(use(client) for _ in range(SLOTS)))
    return done / (time.monotonic() - start_s)


def offer(target: str, planned: Sequence[Planned], seconds: float) -> tuple[list[Outcome], list[Sample]]:
    """Has the clients send what is planned; what came of each, and what the daemon said of itself meanwhile."""
    clients = [_ClientProcess(target, planned[at::CLIENTS]) for at in range(CLIENTS)]
    start_s = time.monotonic() + _LEAD_S
    for each in clients:
        each.start(start_s)
    samples: list[Sample] = []
    with Client(target) as client:
        client.snapshot()  # processor time counts from the snapshot before
        while time.monotonic() < start_s + seconds:
            time.sleep(_SAMPLE_EVERY_S)
            samples.append(_sample(client))
    return [outcome for each in clients for outcome in each.outcomes()], samples


class _ClientProcess:
    """See load_client.py; connected when it is made."""

    def __init__(self, target: str, planned: Sequence[Planned]) -> None:
        command = [sys.executable, str(Path(__file__).with_name("load_client.py"))]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._write({"target": target, "planned": [asdict(each) for each in planned]})
        assert self._read() == "ready"

    def start(self, at_s: float) -> None:
        self._write(at_s)

    def outcomes(self) -> list[Outcome]:
        """Once the last request has ended."""
        found = [_outcome(raw) for raw in self._read()]
        self._child.communicate()
        return found

    def _write(self, value: object) -> None:
        assert self._child.stdin
        self._child.stdin.write(json.dumps(value) + "\n")
        self._child.stdin.flush()

    def _read(self) -> Any:
        assert self._child.stdout
        return json.loads(self._child.stdout.readline())


def _outcome(raw: dict[str, Any]) -> Outcome:
    return Outcome(**raw | {"event_s": tuple(raw["event_s"]), "event_tokens": tuple(raw["event_tokens"])})


def _sample(client: Client) -> Sample:
    snapshot = client.snapshot()
    engine = snapshot.models[0].engine
    return Sample(engine.queue_depth, engine.running, snapshot.process.cpu_cores, snapshot.process.rss_bytes / 1e6)


HEADER = (
    "| load | offered | answered | good | tokens/s | first token, ms: p50 | p95 | p99 | a token, ms: p50 | p95 | p99 |"
    " refused | in ms: p99 | queued: mean | most | running | cores | MB |"
)


def row(share: float, its: dict[str, Any]) -> str:
    """A level of the table."""
    refused = ", ".join(f"{count} {name}" for name, count in sorted(its["refused"].items())) or "-"
    cells = [f"{share:.2f}", f"{its['offered']:.2f}", f"{its['answered']:.2f}", f"{its['good']:.2f}"]
    cells += [f"{its['tokens']:.0f}", *_quantiles(its["first_ms"], 0), *_quantiles(its["token_ms"], 1), refused]
    cells += [_quantiles(its["refused_ms"], 0)[2], f"{its['queued_mean']:.1f}", str(its["queued_most"])]
    cells += [f"{its['running_mean']:.1f}", f"{its['cpu_cores']:.2f}", f"{its['rss_mb']:.0f}"]
    return f"| {' | '.join(cells)} |"


def _quantiles(its: dict[str, float] | None, digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in its.values()] if its else ["-"] * 3


def report(raw: dict[str, Any]) -> str:
    """The page."""
    levels = [row(level["share"], level) for level in raw["levels"]]
    late = max(level["sent_late_ms"]["p99"] for level in raw["levels"] if level["arrived"])
    return "\n".join(
        [
            "# Load",
            "",
            f"Written by `benchmarks/load.py` on {raw['date']}: {raw['machine']}. The reference checkpoint at INT4,"
            f" {raw['threads']} threads, {SLOTS} rows, a queue of {QUEUE_LIMIT}, {raw['seconds']:g} s a level. Daemon"
            f" and clients share the cores; before it began, others kept {raw['busy_cores']:.1f} of them busy.",
            "",
            "![first token, tokens, goodput and refusals by load](load.svg)",
            "",
            f"Eight clients that wait for their answers are given {raw['capacity']:.2f} a second: load 1.00. Requests"
            " come as a Poisson process has them, with prompts of 16 to 256 tokens and answers of 8 to 64, and all"
            f" times count from when a request was due; they were sent {late:.0f} ms later in the 99th percentile of"
            f" the worst level. An answer is good whose first token comes within {GOOD_FIRST_S:g} s, and its tokens in"
            f" {1e3 * GOOD_TOKEN_S:g} ms each. Offered, answered and good are requests a second.",
            "",
            HEADER,
            f"|{' --- |' * HEADER.count(' | ')} --- |",
            *levels,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three levels of some seconds; writes nothing")
    parser.add_argument("--seconds", type=float, default=25.0, help="of each level")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seconds, shares = (8.0, QUICK_SHARES) if options.quick else (options.seconds, SHARES)
    levels, busy_cores = [], psutil.cpu_percent(interval=2.0) / 100 * (os.cpu_count() or 1)
    with daemon(reference_package("int4"), options.threads, "--queue-limit", str(QUEUE_LIMIT)) as served:
        asyncio.run(capacity(served.target, 2.0))  # every kernel has run once
        most = asyncio.run(capacity(served.target, seconds / 2))
        print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.threads} threads; capacity {most:.2f}/s")
        print(f"{busy_cores:.1f} cores were busy with other things\n{HEADER}")
        for at, share in enumerate(shares):
            outcomes, samples = offer(served.target, plan(share * most, seconds, options.seed + at), seconds)
            levels.append({"share": share, **figures(share * most, seconds, outcomes, samples)})
            print(row(share, levels[-1]), flush=True)
    raw = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "busy_cores": busy_cores,
        "threads": options.threads,
        "seconds": seconds,
        "capacity": most,
        "levels": levels,
    }
    if not options.quick:
        from plot_load import draw

        OUT.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        OUT.with_suffix(".md").write_text(report(raw), encoding="utf-8")
        draw(raw, OUT.with_suffix(".svg"))


if __name__ == "__main__":
    main()
