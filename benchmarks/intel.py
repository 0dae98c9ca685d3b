"""OpenVINO against ONNX Runtime, and ours against openvino-genai on the same IR: the reference checkpoint on the CPU.

    make test-openvino                                        # makes the environment that this needs
    .venv-openvino/bin/python benchmarks/intel.py
    .venv-openvino/bin/python benchmarks/intel.py --precision int4 --rounds 9 --rows 1 4

Sessions alone, no engine; tokens are picked greedily. Engines take turns in each round; figures are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai
from machine import processor
from packages import CACHE, ROOT, build

from runtime.package import Package
from runtime.sessions.openvino_session import open_openvino
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk, Session

ORT, OPENVINO = "generic-x86_64", "openvino-x86_64"
CONTEXT_TOKENS = 1024

Measured = tuple[float, float]
"""Prompt tokens/s, and tokens/s of all rows together."""
Measure = Callable[[list[int], int, int], Measured]
"""Takes a prompt, the tokens that follow, and the rows that do so at once."""


def ours(session: Session) -> Measure:
    def measure(prompt: list[int], tokens: int, rows: int) -> Measured:
        began = time.perf_counter()
        logits = [session.run([Chunk(row, prompt, 0)]).copy() for row in range(rows)]
        first = time.perf_counter()
        picked = [int(each[0].argmax()) for each in logits]
        for step in range(tokens):
            chunks = [Chunk(row, picked[row : row + 1], len(prompt) + step) for row in range(rows)]
            picked = session.run(chunks).argmax(-1).tolist()
        return rows * len(prompt) / (first - began), rows * tokens / (time.perf_counter() - first)

    return measure


def genai(model_dir: Path, threads: int) -> Measure:
    """Its continuous batching, with the properties that our session sets."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = 1, False
    properties = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32,
    }
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(model_dir), scheduler, "CPU", properties)

    def seconds(prompt: list[int], tokens: int, rows: int) -> float:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.ignore_eos = tokens, False, True
        began = time.perf_counter()
        pipeline.generate([ov.Tensor(np.array([prompt], np.int64))] * rows, [config] * rows)
        return time.perf_counter() - began

    def measure(prompt: list[int], tokens: int, rows: int) -> Measured:
        first_s = seconds(prompt, 1, rows)
        return rows * len(prompt) / first_s, rows * tokens / (seconds(prompt, 1 + tokens, rows) - first_s)

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["int4", "int8"], default="int8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, nargs="+", default=[41, 656])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    flags = ("--profile", OPENVINO, "--precision", options.precision)
    root = build("reference", ORT, CACHE / f"intel-{options.precision}", *flags, cache=ROOT / "build" / "cache")
    ort, openvino = (Package.open(root, variant, verify=False) for variant in (ORT, OPENVINO))
    sizes = {"slots": max(options.rows), "context_tokens": CONTEXT_TOKENS, "threads": options.threads}
    engines = {
        "ours, ONNX Runtime": ours(OrtSession(ort.serving_graph, **sizes)),
        "ours, OpenVINO": ours(open_openvino(openvino.serving_graph, openvino.build.profile, device="CPU", **sizes)),
        "openvino-genai": genai(openvino.variant_dir, options.threads),
    }
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "openvino", "openvino-genai"))
    print(f"{time.strftime('%Y-%m-%d')}, {processor()}, {versions}, {options.threads} threads, {options.rounds} rounds")
    for package in (ort, openvino):
        build_, fidelity = package.build, package.build.fidelity
        print(f"{build_.variant}: {build_.memory.weights_bytes / 1e6:.1f} MB, KLD {fidelity and fidelity.mean_kld:.4f}")
    print("\n| prompt, rows | " + " | ".join(f"{name}: prefill | decode" for name in engines) + " |")
    print("|---|" + "---|---|" * len(engines))
    for length in options.prompts:
        prompt = [1000 + 7919 * at % 40_000 for at in range(length)]
        for rows in options.rows:
            seen: dict[str, list[Measured]] = {name: [] for name in engines}
            for number in range(options.rounds + 1):  # the first warms up
                for name, measure in engines.items():
                    if (figures := measure(prompt, options.tokens, rows)) and number:
                        seen[name].append(figures)
            medians = (statistics.median(kind) for its in seen.values() for kind in zip(*its, strict=True))
            print(f"| {length}, {rows} | {' | '.join(f'{each:.1f}' for each in medians)} |", flush=True)


if __name__ == "__main__":
    main()
