"""Ours, llama.cpp and onnxruntime-genai on the same weights, machine, threads and prompts, interleaved in one run.

    python benchmarks/peers.py                            # all models, into docs/benchmarks (an hour and a half)
    python benchmarks/peers.py --quick --rounds 1         # a quarter of the tokens, into build/benchmarks/quick
    python benchmarks/peers.py --models qwen2.5-0.5b --only ours llama-q4_0 --rounds 3 --out /tmp/peers
    python benchmarks/peers.py --json > peers.json        # the raw figures too

The peers have environments of their own, which `make bench` makes: .venv-peers, and where the processor has AMX a
second one with llama.cpp compiled without it, as boards see it: .venv-peers-no-amx. Every engine has a process of its
own; a round gives each case to each engine, one right after the other and each round another one first, so that a
machine that slows down slows all. Those that wait sleep; what processor time they took is measured and reported. Models
that are not named stay on the page as they were measured before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from machine import Bandwidth, processor
from packages import CACHE, ROOT
from peer_figures import PROMPTS, Case, Figures, cases, figures
from peer_models import LLAMA_WORKER, MODELS, Model, prepare
from peer_process import PeerProcess
from peer_report import report

HERE = Path(__file__).parent
NO_AMX = "-no-amx"
LOADS = 3  # a load time is their median
SETTLE_S = 0.3  # thread pools that spin after a run have gone to sleep by then


@dataclass(frozen=True)
class System:
    """An engine and how it is set up. `weights` is a key of Model.weights_bytes."""

    name: str
    weights: str
    command: Callable[[Model, Path, int], Sequence[str | Path]]
    kv_itemsize: int = 4
    streams: bool = True  # whether it is asked to serve several at once


def _ours(*flags: str) -> Callable[[Model, Path, int], Sequence[str | Path]]:
    worker = HERE / "worker_ours.py"
    return lambda model, python, threads: [
        sys.executable, worker, model.package.root, "--threads", str(threads), *flags
    ]  # fmt: skip


def _llama(kind: str, environment: str = "") -> Callable[[Model, Path, int], Sequence[str | Path]]:
    """`environment` is what the name of the peers' environment ends in, if it is another than theirs."""
    return lambda model, python, threads: [
        _other(python, environment), LLAMA_WORKER, model.gguf[kind], "--threads", str(threads)
    ]  # fmt: skip


def _other(python: Path, environment: str) -> Path:
    """The interpreter of the environment beside the peers' one."""
    folder = python.parents[1]
    return folder.with_name(folder.name + environment) / "bin" / "python"


def _genai(*, threads_set: bool) -> Callable[[Model, Path, int], Sequence[str | Path]]:
    worker = HERE / "worker_genai.py"
    return lambda model, python, threads: [
        python, worker, model.package.root, *(["--threads", str(threads)] if threads_set else [])
    ]  # fmt: skip


SYSTEMS = [
    System("ours", "onnx", _ours()),
    System("grpc", "onnx", _ours("--grpc")),
    System("llama-q4_0", "Q4_0", _llama("Q4_0"), kv_itemsize=2),
    System("llama-q4_k_m", "Q4_K_M", _llama("Q4_K_M"), kv_itemsize=2),
    System("llama-q4_0-no-amx", "Q4_0", _llama("Q4_0", NO_AMX), kv_itemsize=2),
    System("genai", "onnx", _genai(threads_set=True)),
    System("genai-default", "onnx", _genai(threads_set=False), streams=False),
]


@dataclass
class Running:
    """A system with one model loaded, and what was measured of it."""

    system: System
    process: PeerProcess
    load_s: list[float]
    figures: Figures = field(default_factory=dict)
    alone_bytes: int = 0

    @classmethod
    def start(cls, system: System, command: Sequence[str | Path]) -> Running:
        """Starts it several times for the time it takes; the last stays."""
        load_s = []
        for _ in range(LOADS - 1):
            process = PeerProcess(command)
            load_s.append(process.ready_s)
            process.close()
        process = PeerProcess(command)
        return cls(system, process, [*load_s, process.ready_s])

    def run(self, case: Case) -> None:
        for name, values in figures(case, self.process.serve(case.arrivals)).items():
            self.figures.setdefault(name, []).extend(values)
        if case.name == f"alone {PROMPTS[-1]}" and not self.alone_bytes:
            self.alone_bytes = self.process.usage().peak_bytes

    def wants(self, case: Case) -> bool:
        return self.system.streams or len(case.arrivals) == 1


class Progress:
    """Says on stderr what was measured, and how long the rest will take, going by what each part took last."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._left = list(parts)
        self._took: dict[str, float] = {}
        self._since = time.perf_counter()

    def done(self, part: str, where: str) -> None:
        now = time.perf_counter()
        self._left.remove(part)
        self._took[part], self._since = now - self._since, now
        usual = statistics.mean(self._took.values())
        minutes = sum(self._took.get(part, usual) for part in self._left) / 60
        print(f"{where}: {part}, about {minutes:.0f} min left", file=sys.stderr, flush=True)


def measure(
    model: Model, systems: Sequence[System], options: argparse.Namespace, progress: Progress
) -> dict[str, object]:
    """All systems on one model; returns what `peers.json` has of it."""
    running = [Running.start(its, its.command(model, options.peers_python, options.threads)) for its in systems]
    plan = cases(model.package.build.model.vocab_size, quick=options.quick)
    for each in running:
        each.process.serve([plan[0].arrivals[0]])  # warm up
    idle_share, bandwidth = 0.0, Bandwidth(options.threads)
    bandwidths = []
    for number in range(options.rounds):
        bandwidths.append(bandwidth.measure())
        turn = number % len(running)
        for case in plan:
            for each in [*running[turn:], *running[:turn]]:
                if each.wants(case):
                    idle_share = max(idle_share, _while_others_sleep(each, running, case))
                    where = f"{model.name}, round {number + 1} of {options.rounds}"
                    progress.done(f"{case.name} ({each.system.name})", where)
    found = {each.system.name: _result(model, each) for each in running}
    for each in running:
        each.process.close()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "threads": options.threads,
        "rounds": options.rounds,
        "quick": options.quick,
        "bandwidth_bytes_s": max(bandwidths),
        "idle_cpu_share": round(idle_share, 4),
        "systems": found,
    }


def _while_others_sleep(each: Running, running: Sequence[Running], case: Case) -> float:
    """Runs a case; returns how much of a core all others took meanwhile."""
    time.sleep(SETTLE_S)
    others = [its.process for its in running if its is not each]
    before, start = sum(its.usage().cpu_s for its in others), time.perf_counter()
    each.run(case)
    return (sum(its.usage().cpu_s for its in others) - before) / (time.perf_counter() - start)


def _result(model: Model, each: Running) -> dict[str, object]:
    system = each.system
    return {
        "weights_bytes": model.weights_bytes[system.weights],
        "kv_bytes_per_token": model.kv_bytes_per_token(itemsize=system.kv_itemsize),
        "kld": _kld(model, system),
        "load_s": each.load_s,
        "peak_bytes_alone": each.alone_bytes,
        "peak_bytes": each.process.usage().peak_bytes,
        "versions": each.process.versions,
        "figures": {name: [float(f"{value:.5g}") for value in its] for name, its in each.figures.items()},
    }


def _kld(model: Model, system: System) -> float | None:
    if system.weights in model.kld:
        return model.kld[system.weights]
    known = any(value is not None for value in model.kld.values())
    fidelity = model.package.build.fidelity
    return fidelity.mean_kld if known and fidelity else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [system.name for system in SYSTEMS]
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these engines")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="a quarter of the tokens to say; not into docs")
    parser.add_argument("--out", type=Path, help="folder for the page, plot and data; default: docs/benchmarks")
    parser.add_argument("--json", action="store_true", help="print the raw figures, not the tables")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers" / "bin" / "python")
    options = parser.parse_args()
    options.out = options.out or (CACHE / "quick" if options.quick else ROOT / "docs" / "benchmarks")
    if not _other(options.peers_python, NO_AMX).exists():  # this processor has no AMX
        options.only = [name for name in options.only if not name.endswith(NO_AMX)]
    if not options.peers_python.exists():
        parser.error(f"{options.peers_python} is not there: `make bench` makes the environment of the peers")
    return options


def main() -> None:
    options = _options()
    systems = [system for system in SYSTEMS if system.name in options.only]
    models = [prepare(name, options.peers_python, options.threads) for name in options.models]
    parts = [
        f"{case.name} ({system.name})"
        for case in cases(1000)  # only their names
        for system in systems
        if system.streams or len(case.arrivals) == 1
    ]
    progress = Progress(parts * options.rounds * len(models))
    measured = _measured_before(options)
    for model in models:
        measured[model.name] = measure(model, systems, options, progress)
        raw = {"machine": processor(), "models": {name: measured[name] for name in MODELS if name in measured}}
        _write(raw, options)  # so that what was measured is not lost if a later model fails
    print(json.dumps(raw, indent=1) if options.json else report(raw))


def _measured_before(options: argparse.Namespace) -> dict[str, object]:
    """The models that are not measured now, if they were on this machine."""
    data = options.out / "peers.json"
    before = json.loads(data.read_text()) if data.exists() else {}
    return dict(before["models"]) if before.get("machine") == processor() else {}


def _write(raw: dict[str, object], options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    data = options.out / "peers.json"
    data.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    (options.out / "peers.md").write_text(report(raw), encoding="utf-8")
    subprocess.run([options.peers_python, HERE / "plot_peers.py", data, options.out / "peers.svg"], check=True)


if __name__ == "__main__":
    main()
