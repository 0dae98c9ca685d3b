"""A package for CUDA on an NVIDIA GPU: what it computes against the CPU provider, and how fast.

    python benchmarks/cuda.py PACKAGE --variant generic-x86_64-cuda

It needs onnxruntime-gpu and the GPU, nothing of the build host. Times are medians over single steps, logits fetched.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from machine import processor
from numpy.typing import NDArray
from tokenizers import Tokenizer

from runtime.package import Package
from runtime.sessions.cuda_session import CudaSession
from runtime.sessions.inference import CPU, CUDA
from runtime.sessions.session import Chunk, Logits

TEXT = Path(__file__).parents[1] / "toolchain" / "data" / "heldout.txt"
WINDOW = 512
CONTEXT_TOKENS = 4096
CHUNK = 256
DEPTHS = (41, 656, 2048)
ROWS = (1, 2, 4, 8)


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def greedy(session: CudaSession, prompt: list[int], count: int) -> list[int]:
    """In a slot of its own, as decoding does it: token by token."""
    output = [int(session.run([Chunk(1, prompt, 0)])[0].argmax())]
    while len(output) < count:
        at = len(prompt) + len(output) - 1
        output.append(int(session.run([Chunk(1, output[-1:], at)])[0].argmax()))
    return output


def compare(package: Package, session: CudaSession) -> None:
    """Against the same graph on the CPU provider of the same onnxruntime."""
    reference = CudaSession(package.serving_graph, slots=2, context_tokens=WINDOW, provider=CPU)
    tokenizer = Tokenizer.from_file(str(package.tokenizer_file))
    window = tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_special_tokens=False).ids[:WINDOW]
    parts = [Chunk(0, window[at : at + 128], at, logits=128) for at in range(0, WINDOW, 128)]
    expected, got = (log_softmax(np.concatenate([its.run([part]) for part in parts])) for its in (reference, session))
    kld = (np.exp(expected) * (expected - got)).sum(-1).mean()
    same = (expected.argmax(-1) == got.argmax(-1)).mean()
    print(f"{WINDOW} tokens of text: KLD to the CPU provider {kld:.5f}, same top token {same:.3f}")
    golden = package.build.golden
    said = greedy(session, golden.prompt_ids, len(golden.greedy_ids))
    on_cpu = greedy(reference, golden.prompt_ids, len(golden.greedy_ids))
    agree = [sum(map(int.__eq__, said, other)) for other in (golden.greedy_ids, on_cpu)]
    print(f"golden transcript: {agree[0]} of {len(said)} tokens; with the CPU provider here: {agree[1]}\n")


def median_ms(step: Callable[[], object], count: int) -> float:
    step()  # captures the graph
    times = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure(session: CudaSession) -> None:
    tokens = [3 + 7919 * at % 40_000 for at in range(max(DEPTHS))]

    def prefill(slot: int, count: int) -> None:
        for at in range(0, count, CHUNK):
            session.run([Chunk(slot, tokens[at : min(at + CHUNK, count)], at, logits=int(at + CHUNK >= count))])

    print("| depth | prefill, tokens/s | " + " | ".join(f"{rows} rows, ms a step" for rows in ROWS) + " |")
    print("|---" * (2 + len(ROWS)) + "|")
    for depth in DEPTHS:
        ms = median_ms(lambda depth=depth: prefill(0, depth), 10)  # type: ignore[misc]
        for slot in range(max(ROWS)):
            prefill(slot, depth)
        cells = [f"{depth / ms * 1e3:.0f}"]
        for rows in ROWS:
            chunks = [Chunk(slot, [5], depth) for slot in range(rows)]
            cells.append(f"{median_ms(lambda chunks=chunks: session.run(chunks), 60):.2f}")  # type: ignore[misc]
        print(f"| {depth} | {' | '.join(cells)} |", flush=True)
    started = time.perf_counter()
    session.copy(0, 1, max(DEPTHS))
    print(f"\na row of {max(DEPTHS)} tokens copied in {1e3 * (time.perf_counter() - started):.2f} ms")


def gpu(query: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--variant")
    options = parser.parse_args()
    package = Package.open(options.package, options.variant, verify=False)
    print(f"{time.strftime('%Y-%m-%d')}, {gpu('name,driver_version')}; {processor()}")
    print(f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}")
    before = gpu("memory.used")
    start = time.perf_counter()
    session = CudaSession(package.serving_graph, slots=max(ROWS), context_tokens=CONTEXT_TOKENS, provider=CUDA)
    kv_mb = max(ROWS) * CONTEXT_TOKENS * session.spec.kv_bytes_per_token / 1e6
    print(
        f"{package.build.name}: {package.build.memory.weights_bytes / 1e6:.1f} MB, loaded in"
        f" {time.perf_counter() - start:.2f} s; GPU memory {before}, then {gpu('memory.used')}, {kv_mb:.0f} MB of it KV"
    )
    compare(package, session)
    measure(session)
    print(f"GPU memory at the end {gpu('memory.used')}")


if __name__ == "__main__":
    main()
