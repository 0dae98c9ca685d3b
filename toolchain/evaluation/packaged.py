"""The package's side of a comparison: its logits on windows of text, and a transcript to remember it by.

The quantized side runs through `runtime.session`, so what is measured is what ships.

torch and transformers take seconds to import, and a build from its cache needs neither: they are imported where they
are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from runtime.package import Golden
from runtime.sessions.adapters import Adapter
from runtime.sessions.cuda_session import CudaSession
from runtime.sessions.inference import CPU
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk, Session

if TYPE_CHECKING:
    import torch

WINDOW_TOKENS = 512
CHUNK_TOKENS = 128
MAX_WINDOWS = 8
GOLDEN_QUESTION = "How many days are in a week?"
"""Small models know the answer, and no two tokens of it are near a tie: rounding does not change it."""


@dataclass(frozen=True)
class Extent:
    """How much is measured: the first `windows` of a text, each behind `opening`, and an answer of `golden_tokens`."""

    windows: int = MAX_WINDOWS
    window_tokens: int = WINDOW_TOKENS
    golden_tokens: int = 32
    opening: tuple[int, ...] = ()


ALL = Extent()


class SessionModel:
    """What a session computes, with its `adapter` if that is given. Of windows that come again it is remembered."""

    def __init__(self, session: Session, *, adapter: str | None = None, remember: bool = False) -> None:
        self._session, self._adapter = session, adapter
        self._known: dict[tuple[int, ...], torch.Tensor] | None = {} if remember else None

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        import torch

        window = tuple(tokens)
        if self._known and window in self._known:
            return self._known[window]
        logits = torch.from_numpy(_all_logits(self._session, window, self._adapter))
        if self._known is not None:
            self._known[window] = logits
        return logits


def windows_of(
    text: str, tokenizer: Path, *, limit: int = MAX_WINDOWS, window_tokens: int = WINDOW_TOKENS
) -> list[list[int]]:
    """The first `limit` windows of `text`; one that is shorter than `window_tokens` counts if it is half that."""
    ids = Tokenizer.from_file(str(tokenizer)).encode(text, add_special_tokens=False).ids
    windows = [ids[at : at + window_tokens] for at in range(0, len(ids), window_tokens)]
    return [w for w in windows[:limit] if len(w) >= window_tokens // 2]


def open_session(
    graph: Path,
    *,
    threads: int,
    context_tokens: int = WINDOW_TOKENS,
    adapter: Adapter | None = None,
    packed: bool = True,
) -> OrtSession | CudaSession:
    """The graph in a session of one row, as the daemon would run it; a rectangular one, for CUDA, on the CPU."""
    if not packed:
        return CudaSession(graph, slots=1, context_tokens=context_tokens, provider=CPU)
    adapters = [adapter] if adapter else []
    return OrtSession(graph, slots=1, context_tokens=context_tokens, threads=threads, adapters=adapters)


def golden_prompt(checkpoint: Path) -> list[int]:
    """Token ids of a short question in the checkpoint's chat template, or as plain text if it has none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if tokenizer.chat_template is None:
        return list(tokenizer.encode(GOLDEN_QUESTION, add_special_tokens=False))
    message = {"role": "user", "content": GOLDEN_QUESTION}
    return list(tokenizer.apply_chat_template([message], add_generation_prompt=True))


def opening_token(checkpoint: Path) -> int | None:
    """The token that every conversation begins with, if the checkpoint has a chat template."""
    from transformers import AutoTokenizer

    if AutoTokenizer.from_pretrained(checkpoint).chat_template is None:
        return None
    return golden_prompt(checkpoint)[0]


def golden_transcript(
    session: Session,
    prompt: Sequence[int],
    *,
    eos_token_ids: frozenset[int],
    max_tokens: int = 32,
    adapter: str | None = None,
) -> Golden:
    """What `session` answers greedily: a device that answers otherwise has another numeric path or broken weights."""
    logits = session.run([Chunk(0, prompt, 0)], adapter=adapter)
    output: list[int] = []
    while True:
        output.append(int(logits[0].argmax()))
        if output[-1] in eos_token_ids or len(output) == max_tokens:
            return Golden(prompt_ids=list(prompt), greedy_ids=output)
        logits = session.run([Chunk(0, output[-1:], len(prompt) + len(output) - 1)], adapter=adapter)


def _all_logits(session: Session, window: Sequence[int], adapter: str | None) -> NDArray[np.float32]:
    parts = ((window[at : at + CHUNK_TOKENS], at) for at in range(0, len(window), CHUNK_TOKENS))
    chunks = (Chunk(0, tokens, at, logits=len(tokens)) for tokens, at in parts)
    return np.concatenate([session.run([chunk], adapter=adapter).copy() for chunk in chunks])
