"""`peers.json` as a page: the tables, the targets and what was not reached, how everything was set up."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from peer_figures import (
    ALONE_TOKENS,
    LONG_PROMPT,
    PROMPTS,
    RUNNING,
    STAGGER_TOKENS,
    STREAM_TOKENS,
    STREAMS,
    Figures,
    p99,
    targets,
)

TARGET_MODEL = "qwen2.5-0.5b"
_ONE_STREAM = ("first", "prefill", "decode")
LABELS = {
    "ours": "edgeqwen, in process",
    "grpc": "edgeqwen, gRPC",
    "llama-q4_0": "llama.cpp Q4_0",
    "llama-q4_k_m": "llama.cpp Q4_K_M",
    "llama-q4_0-no-amx": "llama.cpp Q4_0, no AMX",
    "genai": "onnxruntime-genai, threads set",
    "genai-default": "onnxruntime-genai, its default",
}
SETUP = f"""## How it was measured

- Every engine is in a process of its own. Each case of a round goes to each engine, one right after the other, and each
  round begins with another engine. Figures are medians of the rounds; ratios are medians of the rounds' ratios.
- Prompts are token ids spread over the vocabulary, the same for all; greedy, no end before the last token. Nothing is
  reused of an earlier prompt. Guesses from the text are off in ours, as random weights repeat themselves.
- The two Qwen geometries have random weights: speed depends on shapes and bits, not on what was learned. They have no
  KLD: it would say how well random numbers can be rounded.
- First token and prefill are of one stream, from the request to its first token; decode is of the {ALONE_TOKENS} tokens
  from that depth on.
- The streams have prompts of 24 to 200 tokens and {STREAM_TOKENS} tokens to say each, and each comes {STAGGER_TOKENS}
  tokens of the first stream after the one before. "Total" is all their tokens from the first request to the last token,
  prompts computed meanwhile; "all run" counts only while all of them decode.
- Gaps are between two tokens of a stream while {RUNNING} run: the quiet median, and the 99th percentile while a prompt
  of {LONG_PROMPT} tokens is computed.
- Bytes are the weights, without a tokenizer. The floor of a token is the time to read them and the KV at its depth, at
  the memory bandwidth: what all threads read of an array larger than the caches, the best of the same run. A host that
  keeps weights in a large cache can be above 100 %.
- Peak memory is the process's (VmHWM): after one stream of each length, and after everything. Load is from the start of
  the process until it can take a request, files in the page cache, the median of three.
- KLD is to the float checkpoint, for all on the windows of text on which `edgeqwen-compile` measures it.
  onnxruntime-genai runs our weights file, so it has our figure.
- **llama.cpp** is compiled here from PyPI's llama-cpp-python, with GGML_NATIVE. It has flash attention, n_batch and
  n_ubatch of 512, one unified KV cache in float16, n_threads and n_threads_batch set. It batches as its server does: a
  token of each running sequence, then prompts until the batch is full. The files are quantized from the same float
  weights by its own `llama_model_quantize`. The token is numpy's argmax, which takes less time than its sampler.
  "No AMX" is the same compiled without Intel's matrix unit, which boards do not have.
- **onnxruntime-genai** runs the stock graph of our package. On a CPU it does not batch requests that come at different
  times (its dynamic batching needs a paged KV cache), so streams take turns, a token each.
"""


def report(raw: Mapping[str, Any]) -> str:
    """The page, in Markdown."""
    parts = [
        "# Against llama.cpp and onnxruntime-genai\n",
        f"Written by `benchmarks/peers.py`: {raw['machine']}. {_versions(raw)}\n",
        "![prefill, decode, streams and gaps of each engine](peers.svg)\n",
    ]
    if TARGET_MODEL in raw["models"]:
        parts.append(_targets(raw["models"][TARGET_MODEL]["systems"]))
    for name, model in raw["models"].items():
        parts.append(_model(name, model))
    return "\n".join([*parts, SETUP])


def rounds(model: Mapping[str, Any]) -> str:
    """When and how often a model was measured."""
    times = "1 round" if model["rounds"] == 1 else f"medians of {model['rounds']} rounds"
    return (
        f"{model['date']}, {model['threads']} threads, {times}{', a quarter of the tokens' if model['quick'] else ''}"
    )


def _versions(raw: Mapping[str, Any]) -> str:
    seen: dict[str, str] = {}
    for model in raw["models"].values():
        for system in model["systems"].values():
            seen = system["versions"] | seen  # llama.cpp's first build is the one for all that this machine has
    return ", ".join(f"{name} {version}" for name, version in seen.items()) + "."


def _targets(systems: Mapping[str, Any]) -> str:
    found = targets({name: its["figures"] for name, its in systems.items()})
    reached = sum(target.reached for target in found)
    rows = [(its.what, its.wanted, f"{its.value:.2f}", "yes" if its.reached else "**no**") for its in found]
    head = ("ratio", "wanted", "measured", "reached")
    return f"## Targets\n\n{TARGET_MODEL}; {reached} of {len(found)} reached.\n\n{_table(head, rows)}"


def _model(name: str, model: Mapping[str, Any]) -> str:
    systems, bandwidth = model["systems"], model["bandwidth_bytes_s"]
    prompts, streams = " / ".join(map(str, PROMPTS)), " / ".join(map(str, STREAMS))
    one = _table(
        (f"one stream, {prompts} tokens", "first token, ms", "prefill, tokens/s", "decode, tokens/s", "of the floor"),
        [(LABELS[key], *_one_stream(its, bandwidth)) for key, its in systems.items()],
    )
    several = _table(
        (f"{streams} streams", "total, tokens/s", "all run, tokens/s", "gap, quiet", "p99, long prompt"),
        [(LABELS[key], *_several(its["figures"])) for key, its in systems.items()],
    )
    size = _table(
        ("", "bytes", "KLD", "peak memory, one stream", "all", "load"),
        [(LABELS[key], *_size(its)) for key, its in systems.items()],
    )
    about = (
        f"{rounds(model)}. Memory bandwidth {bandwidth / 1e9:.1f} GB/s."
        f" The engines that waited took at most {model['idle_cpu_share']:.1%} of a core, all together."
    )
    return f"## {name}\n\n{about}\n\n{one}\n{several}\n{size}"


def _one_stream(its: Mapping[str, Any], bandwidth: float) -> list[str]:
    first, prefill, decode = ([_median(its["figures"], f"{kind}@{n}") for n in PROMPTS] for kind in _ONE_STREAM)
    return [
        _joined(f"{1000 * value:.0f}" for value in first),
        _joined(f"{value:.0f}" for value in prefill),
        _joined(f"{value:.1f}" for value in decode),
        _joined(f"{value / floor(its, n, bandwidth):.0%}" for n, value in zip(PROMPTS, decode, strict=True)),
    ]


def floor(its: Mapping[str, Any], depth: int, bandwidth: float) -> float:
    """Tokens/s if a token took only the time to read the weights and the KV."""
    return bandwidth / float(its["weights_bytes"] + depth * its["kv_bytes_per_token"])


def _several(figures: Figures) -> list[str]:
    if "gaps busy" not in figures:
        return ["-"] * 4
    return [
        _joined(f"{_median(figures, f'total x{n}'):.1f}" for n in STREAMS),
        _joined(f"{_median(figures, f'together x{n}'):.1f}" for n in STREAMS),
        f"{1000 * statistics.median(figures['gaps quiet']):.0f} ms",
        f"{1000 * p99(figures['gaps busy']):.0f} ms",
    ]


def _size(its: Mapping[str, Any]) -> list[str]:
    return [
        f"{its['weights_bytes'] / 1e6:.1f} MB",
        "-" if its["kld"] is None else f"{its['kld']:.3f}",
        f"{its['peak_bytes_alone'] / 1e6:.0f} MB",
        f"{its['peak_bytes'] / 1e6:.0f} MB",
        f"{statistics.median(its['load_s']):.2f} s",
    ]


def _median(figures: Figures, name: str) -> float:
    return statistics.median(figures[name])


def _joined(values: Iterable[str]) -> str:
    return " / ".join(values)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
