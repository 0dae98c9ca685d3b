"""A worker (see worker.py) with llama.cpp, through the low-level API of llama-cpp-python.

It batches as llama.cpp's own server does: every `llama_decode` has one token of each running sequence, then prompt
tokens of those that wait, first come first served, until the batch is full. Logits are computed where a token is
sampled, and nowhere else. The token is numpy's argmax over them, which takes less time than llama.cpp's sampler chain.
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray
from traffic import Arrival, Group, Served
from worker import own_stdout, work

BATCH_TOKENS = 512  # n_batch and n_ubatch
SEQUENCES = 8
CONTEXT_TOKENS = 4096  # of all sequences together: as much as any group of requests needs


@dataclass
class Row:
    """A sequence in the context: what is to be computed of it next, at which position."""

    number: int
    pending: list[int]
    position: int = 0


class Context:
    """A `llama_context`, and the one batch that it decodes."""

    def __init__(self, model: object, threads: int, sequences: int, context_tokens: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context_tokens
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(model, params)
        assert self._context, "llama.cpp made no context"
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, False)

    def remove(self, sequence: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def decode(self, tokens: Sequence[tuple[int, int, int, bool]]) -> None:
        """Computes (token, position, sequence, whether its logits are wanted), at most BATCH_TOKENS of them."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for at, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[at] = token
            batch.pos[at] = position
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = sequence
            batch.logits[at] = wanted
        status = llama_cpp.llama_decode(self._context, batch)
        assert status == 0, f"llama_decode returned {status}"

    def logits(self, at: int) -> NDArray[np.float32]:
        """`[vocab]`, of the token at `at` in the batch; valid until the next decode."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, at)
        return np.ctypeslib.as_array(pointer, (self._vocabulary,))


class LlamaCpp:
    """One model, and a context for up to eight sequences."""

    def __init__(self, file: Path, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        assert self._model, f"llama.cpp cannot load {file}"
        self._context = Context(self._model, threads, SEQUENCES, CONTEXT_TOKENS)

    def serve(self, arrivals: Sequence[Arrival]) -> list[Served]:
        group = Group(arrivals)
        self._context.clear()
        rows: list[Row] = []
        while not group.done:
            rows += [Row(number, list(arrivals[number].prompt)) for number in group.due()]
            for row, token in self._step(rows):
                group.said(row.number)
                row.pending = [token]
                if group.ended(row.number):
                    rows.remove(row)
                    self._context.remove(row.number)
        return group.served()

    def _step(self, rows: Sequence[Row]) -> list[tuple[Row, int]]:
        """One batch; returns the rows that said a token, and it."""
        tokens: list[tuple[int, int, int, bool]] = []
        speaking: list[tuple[Row, int]] = []
        for row in sorted(rows, key=lambda row: len(row.pending) > 1):  # those that decode first
            count = min(len(row.pending), BATCH_TOKENS - len(tokens))
            last = count == len(row.pending)
            for at, token in enumerate(row.pending[:count]):
                tokens.append((token, row.position + at, row.number, last and at == count - 1))
            row.position += count
            row.pending = row.pending[count:]
            if last:
                speaking.append((row, len(tokens) - 1))
        self._context.decode(tokens)
        return [(row, int(self._context.logits(at).argmax())) for row, at in speaking]

    def logits(self, tokens: Sequence[int], start: int, file: str) -> None:
        if start == 0:
            self._context.clear()
        self._context.decode([(token, start + at, 0, True) for at, token in enumerate(tokens)])
        np.save(file, np.stack([self._context.logits(at) for at in range(len(tokens))]))


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """llama.cpp's log, but for errors, would fill the terminal."""
    if level == 4:
        print(text.decode(errors="replace"), end="")


def quantize(source: Path, out: Path, kind: str, threads: int) -> None:
    """Writes `source` as Q4_0 or Q4_K_M, as `llama-quantize` does with its defaults."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = threads
    unfinished = out.with_suffix(".tmp")
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(unfinished).encode(), ctypes.byref(params))
    assert status == 0, f"llama_model_quantize returned {status}"
    unfinished.rename(out)


def _compiled_for() -> str:
    """The instructions that it was compiled for, of which it says `AVX2 = 1`."""
    said = llama_cpp.llama_print_system_info().decode().rpartition("CPU :")[2]
    return " ".join(part.split("=")[0].strip() for part in said.split("|") if part.strip().endswith("= 1"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--quantize", nargs=2, metavar=("KIND", "OUT"), help="write it as Q4_0 or Q4_K_M, and end")
    options = parser.parse_args()
    pipe = own_stdout()
    llama_cpp.llama_log_set(_quiet, ctypes.c_void_p())
    if options.quantize:
        kind, out = options.quantize
        quantize(options.file, Path(out), kind, options.threads)
        return
    versions = {"llama-cpp-python": version("llama-cpp-python"), "llama.cpp for": _compiled_for()}
    work(LlamaCpp(options.file, options.threads), pipe, versions=versions)


if __name__ == "__main__":
    main()
