"""The models that `peers.py` measures: our package of each, and llama.cpp's files of the same weights."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf_file import write_gguf
from numpy.typing import NDArray
from packages import CACHE, ROOT, random_checkpoint, random_package, reference_package
from peer_process import PeerProcess
from random_checkpoint import QWEN3_06B, QWEN25_05B

from runtime.package import Package
from runtime.sessions.session import Logits
from toolchain.checkpoints.sources import resolve
from toolchain.evaluation import packaged
from toolchain.evaluation.divergence import diverge
from toolchain.evaluation.float_reference import FloatReference
from toolchain.evaluation.heldout import HELD_OUT, held_out_text

REFERENCE = "reference"
MODELS = (REFERENCE, QWEN25_05B, QWEN3_06B)
KINDS = ("Q4_0", "Q4_K_M")
LLAMA_WORKER = Path(__file__).with_name("worker_llamacpp.py")


@dataclass(frozen=True)
class Model:
    """One set of weights. `kld` is of Q4_0 and Q4_K_M; None where the weights are random, which says nothing."""

    name: str
    package: Package
    gguf: dict[str, Path]
    kld: dict[str, float | None]

    @property
    def weights_bytes(self) -> dict[str, int]:
        """By format: what a token reads, as all of these models use the embedding as head too."""
        files = {kind: file.stat().st_size for kind, file in self.gguf.items()}
        return files | {"onnx": self.package.build.memory.weights_bytes}

    def kv_bytes_per_token(self, *, itemsize: int) -> int:
        shape = self.package.build.model
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * itemsize


def prepare(name: str, peers_python: Path, threads: int) -> Model:
    """Builds and quantizes what is not there from last time; minutes for a new model."""
    if name == REFERENCE:
        package = reference_package("int4")
        checkpoint = resolve("reference", revision=None, cache=ROOT / "build" / "cache").folder
    else:
        package, checkpoint = random_package(name), random_checkpoint(name)
    gguf = {kind: CACHE / "gguf" / f"{name}-{kind}.gguf" for kind in KINDS}
    if missing := {kind: file for kind, file in gguf.items() if not file.exists()}:
        _quantize(checkpoint, missing, peers_python, threads, biases=name != REFERENCE)
    kld: dict[str, float | None] = dict.fromkeys(gguf)
    if name == REFERENCE:
        kld = {kind: _kld(file, checkpoint, peers_python, threads) for kind, file in gguf.items()}
    return Model(name, Package.open(package, verify=False), gguf, kld)


def _quantize(checkpoint: Path, out: dict[str, Path], peers_python: Path, threads: int, *, biases: bool) -> None:
    (CACHE / "gguf").mkdir(parents=True, exist_ok=True)
    full = CACHE / "gguf" / "float16.gguf"
    write_gguf(checkpoint, full, biases=biases)
    for kind, file in out.items():
        command = [peers_python, LLAMA_WORKER, full, "--threads", str(threads), "--quantize", kind, file]
        subprocess.run(command, check=True)
    full.unlink()


class _LlamaSession:
    """As much of a `Session` as the evaluation of fidelity uses."""

    def __init__(self, process: PeerProcess) -> None:
        self._process = process

    def prefill(self, slot: int, tokens: list[int], start: int, *, logits: str) -> Logits:
        result: NDArray[np.float32] = self._process.logits(tokens, start)
        return result


def _kld(file: Path, checkpoint: Path, peers_python: Path, threads: int) -> float:
    """Mean KLD to the float checkpoint, on the windows of text that a build measures ours on. Kept beside the file."""
    kept = file.with_suffix(".kld.json")
    if not kept.exists():
        windows = packaged.windows_of(held_out_text(), checkpoint / "tokenizer.json")
        process = PeerProcess([peers_python, LLAMA_WORKER, file, "--threads", str(threads)])
        session = _LlamaSession(process)
        reference = FloatReference(checkpoint)
        model = packaged.SessionModel(session)  # type: ignore[arg-type]
        fidelity = diverge(reference, model, windows).fidelity(HELD_OUT)
        process.close()
        kept.write_text(json.dumps({"llama-cpp-python": process.versions["llama-cpp-python"], **fidelity.model_dump()}))
    mean_kld: float = json.loads(kept.read_text())["mean_kld"]
    return mean_kld
