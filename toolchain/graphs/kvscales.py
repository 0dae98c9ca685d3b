"""Scales for an int8 KV cache: how large each channel of each layer's keys and values gets.

Keys have channels that are many times larger than the rest, the same ones at every token (KIVI, arXiv:2402.02750), so
each channel has a scale of its own. They are measured on calibration text, by the model that will use them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from runtime.sessions.cuda_session import CudaSession
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk

MAX_TEXTS = 64
MAX_TEXT_TOKENS = 512

_LARGEST = 127
_SMALLEST_SCALE = 1e-6  # of a channel that is always zero

Scales = dict[str, list[float]]
"""A scale per channel, `[kv_heads * head_dim]`, by cache input of the serving graph. Kept is `value / scale`."""

OnText = Callable[[int, int], None]
"""Called with the number of texts read and how many there are."""


def calibration_tokens(text: Path, tokenizer: Path) -> list[list[int]]:
    """The first texts of a JSON lines file, as tokens."""
    encode = Tokenizer.from_file(str(tokenizer)).encode
    with text.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in islice(lines, MAX_TEXTS)]
    rows = (encode(each, add_special_tokens=False).ids for each in texts)
    return [row[:MAX_TEXT_TOKENS] for row in rows if row]


def measure_scales(
    session: OrtSession | CudaSession,
    texts: Sequence[Sequence[int]],
    *,
    on_text: OnText = lambda done, total: None,
) -> Scales:
    """Runs `session`, whose KV cache is of floats, over the texts, which are of MAX_TEXT_TOKENS at most."""
    peaks: dict[str, np.ndarray] = {}
    for number, tokens in enumerate(texts, 1):
        session.run([Chunk(0, tokens, 0, logits=0)])
        for name, kv in session.read_kv(0, len(tokens)).items():
            peak = np.abs(kv).max(axis=1)
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
        on_text(number, len(texts))
    return {name: _as_scales(peak.reshape(-1)) for name, peak in peaks.items()}


def _as_scales(peaks: Iterable[float]) -> list[float]:
    return [max(float(peak) / _LARGEST, _SMALLEST_SCALE) for peak in peaks]
