"""How fast a package decodes: in this process, and through the daemon's gRPC, interleaved in one run.

    python benchmarks/decode.py                    # Qwen2.5-0.5B's geometry, random weights, INT4
    python benchmarks/decode.py --package DIR      # a package of yours
    python benchmarks/decode.py --rounds 20 --json

Every figure is the median of the rounds; every round measures each case once, in-process and through gRPC, one right
after the other and each in turn the first, so that a machine that slows down slows both. "Through gRPC" is what a
client sees: a real daemon in its own process, a unix socket, one streaming call per request, timed at the client.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from random_checkpoint import make_checkpoint

from edgeqwen.client import AsyncClient, Client, Delta, Options
from runtime.bench import Case, Rates, run_case
from runtime.engine import Engine
from runtime.package import Package
from runtime.session import OrtSession
from runtime.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "benchmarks"
PROFILE = Path(__file__).with_name("random-int4.yaml")


CASES = [Case(41, 96, 1), Case(656, 96, 1), *(Case(41, 128, streams) for streams in (2, 4, 8))]


class InProcess:
    """The engine in this process."""

    def __init__(self, package: Package, threads: int) -> None:
        runtime = package.build.profile.runtime
        session = OrtSession(package.serving_graph, slots=8, context_tokens=runtime.context_tokens, threads=threads)
        self._engine = Engine(
            session,
            Tokenizer.from_file(package.tokenizer_file),
            eos_token_ids=frozenset(),
            queue_limit=64,
            prefill_chunk_tokens=runtime.prefill_chunk_tokens,
            kv_budget_tokens=8 * runtime.context_tokens,
        )
        self._engine.start()

    def run(self, case: Case) -> Rates:
        return run_case(self._engine, case)

    def close(self) -> None:
        self._engine.stop()


class ThroughGrpc:
    """A daemon in a process of its own, and asyncio clients here."""

    def __init__(self, target: str, vocab_size: int) -> None:
        self._target = target
        self._vocab_size = vocab_size

    def run(self, case: Case) -> Rates:
        return asyncio.run(self._run(case))

    async def _run(self, case: Case) -> Rates:
        async with AsyncClient(self._target, scope=b"") as client:  # every prompt is computed
            await client.health()  # connected before the clock starts
            start = time.perf_counter()
            streams = [self._stream(client, case, number) for number in range(case.streams)]
            return Rates.of(case, start, await asyncio.gather(*streams))

    async def _stream(self, client: AsyncClient, case: Case, number: int) -> list[tuple[float, int]]:
        events = client.generate(
            token_ids=case.prompt_ids(number, self._vocab_size),
            options=Options(max_tokens=case.tokens, ignore_eos=True, temperature=0.0),
        )
        return [(time.perf_counter(), len(event.token_ids)) async for event in events if isinstance(event, Delta)]


@dataclass(frozen=True)
class Daemon:
    """A running `edgeqwend`; it was ready `ready_s` after its start."""

    target: str
    ready_s: float

    def memory_mb(self) -> float:
        """What is resident now."""
        with Client(self.target) as client:
            return client.snapshot().process.rss_bytes / 1e6


@contextmanager
def daemon(package: Path, threads: int) -> Iterator[Daemon]:
    """Runs `edgeqwend` to the end of the block."""
    with tempfile.TemporaryDirectory(prefix="edgeqwen-") as folder:
        target = f"unix:{folder}/bench.sock"
        command = [sys.executable, "-m", "runtime.daemon", "--package", str(package), "--listen", target]
        command += ["--state-dir", folder]  # what was measured on this machine counts for nothing
        start = time.perf_counter()
        child = subprocess.Popen([*command, "--threads", str(threads), "--slots", "8", "--log-level", "warning"])
        try:
            with Client(target) as client:
                client.wait_until_serving(timeout_s=60)
            yield Daemon(target, time.perf_counter() - start)
        finally:
            child.terminate()
            child.wait(timeout=30)


def random_package() -> Path:
    """Builds the package of the random checkpoint, or finds it from last time."""
    built = CACHE / f"qwen2.5-0.5b-random-{hashlib.sha256(PROFILE.read_bytes()).hexdigest()[:12]}"
    packages = sorted(built.glob("*.ortpackage"))
    if not packages:
        checkpoint = make_checkpoint(CACHE / "checkpoint" / "qwen2.5-0.5b-random")
        command = [sys.executable, "-m", "toolchain.cli", "build", str(checkpoint), "--profile", str(PROFILE)]
        subprocess.run([*command, "--cache", str(CACHE / "cache"), "-o", str(built)], check=True)
        packages = sorted(built.glob("*.ortpackage"))
    return packages[0]


@dataclass(frozen=True)
class Measured:
    """What one run found. `scaling` is 8 streams' total over one stream's: in-process, and through gRPC."""

    rows: list[dict[str, object]]
    scaling: tuple[float, float]
    daemon: dict[str, float]


def measure(package: Path, rounds: int, threads: int) -> Measured:
    """Medians over the rounds; of ratios, the median of the rounds' ratios."""
    opened = Package.open(package, verify=False)
    local = InProcess(opened, threads)
    seen: dict[Case, list[tuple[Rates, Rates]]] = {case: [] for case in CASES}
    with daemon(package, threads) as served:
        ready_mb = served.memory_mb()
        remote = ThroughGrpc(served.target, opened.build.model.vocab_size)
        for side in (local, remote):
            side.run(CASES[0])  # warm up
        for number in range(rounds):
            for case in CASES:
                if number % 2:
                    there, here = remote.run(case), local.run(case)
                else:
                    here, there = local.run(case), remote.run(case)
                seen[case].append((here, there))
        about = {
            "ready_s": round(served.ready_s, 2),
            "weights_mb": round(opened.build.memory.weights_bytes / 1e6, 1),
            "memory_ready_mb": round(ready_mb, 1),
            "memory_after_mb": round(served.memory_mb(), 1),
        }
    local.close()
    rows = [_row(case, pairs) for case, pairs in seen.items()]
    return Measured(rows, (_scaling(seen, 0), _scaling(seen, 1)), about)


def _row(case: Case, pairs: list[tuple[Rates, Rates]]) -> dict[str, object]:
    median = statistics.median
    return {
        "case": case.name,
        "prefill": round(median(here.prefill for here, _ in pairs), 1),
        "decode": round(median(here.decode for here, _ in pairs), 1),
        "grpc_prefill": round(median(there.prefill for _, there in pairs), 1),
        "grpc_decode": round(median(there.decode for _, there in pairs), 1),
        "grpc_share": round(median(there.decode / here.decode for here, there in pairs), 3),
    }


def _scaling(seen: dict[Case, list[tuple[Rates, Rates]]], side: int) -> float:
    """Side 0 is in-process, 1 is gRPC."""
    one, most = seen[CASES[0]], seen[CASES[-1]]
    return round(statistics.median(m[side].decode / o[side].decode for o, m in zip(one, most, strict=True)), 2)


def machine() -> str:
    """What the figures were taken on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "grpcio", "numpy"))
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="a package to measure; default: random weights, built here")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    package = options.package or random_package()
    found = measure(package, options.rounds, options.threads)
    if options.json:
        print(json.dumps({"machine": machine(), "threads": options.threads, **asdict(found)}, indent=1))
        return
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.threads} threads, {options.rounds} rounds\n")
    print("| case | prefill | decode | gRPC prefill | gRPC decode | gRPC / in-process |")
    print("|---|---|---|---|---|---|")
    for row in found.rows:
        print(f"| {' | '.join(str(value) for value in row.values())} |")
    here, there = found.scaling
    print(f"\n8 streams give {here} times the tokens/s of one in-process, {there} times through gRPC.")
    print(
        "The daemon was ready {ready_s} s after its start, and held {memory_ready_mb} MB then and {memory_after_mb} MB"
        " after all of this, with {weights_mb} MB of weights.".format(**found.daemon)
    )


if __name__ == "__main__":
    main()
