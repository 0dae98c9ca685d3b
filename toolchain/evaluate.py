"""What quantization cost: the package's logits against the float checkpoint's, on text it was not calibrated on.

The measure is the one llama.cpp's `--kl-divergence` made common: the mean over positions of
KL(float || quantized), beside perplexity and how often both would pick the same token. The quantized side runs through
`runtime.session`, so what is measured is what ships.

torch and transformers take seconds to import, and a build from its cache needs neither: they are imported where they
are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from runtime.adapters import Adapter
from runtime.cuda_session import CudaSession
from runtime.inference import CPU
from runtime.ort_session import OrtSession
from runtime.package import Fidelity, Golden
from runtime.session import Chunk, Session

if TYPE_CHECKING:
    import torch

WINDOW_TOKENS = 512
CHUNK_TOKENS = 128
MAX_WINDOWS = 8
GOLDEN_QUESTION = "How many days are in a week?"
"""Small models know the answer, and no two tokens of it are near a tie: rounding does not change it."""

OnWindow = Callable[[int, int], None]
"""Called with the number of windows done and how many there are."""


@dataclass(frozen=True)
class Extent:
    """How much is measured: the first `windows` of a text, each behind `opening`, and an answer of `golden_tokens`."""

    windows: int = MAX_WINDOWS
    window_tokens: int = WINDOW_TOKENS
    golden_tokens: int = 32
    opening: tuple[int, ...] = ()


ALL = Extent()


class Model(Protocol):
    """What can be compared."""

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """float32 `[len(tokens), vocab]`."""
        ...


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


class FloatReference:
    """The float32 checkpoint, in transformers; with the PEFT adapter in the folder `adapter`, if that is given."""

    def __init__(self, checkpoint: Path, adapter: Path | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        if adapter is not None:
            from peft import PeftModel

            self._model = PeftModel.from_pretrained(self._model, str(adapter)).eval()

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """float32 `[len(tokens), vocab]`."""
        import torch

        with torch.no_grad():
            result: torch.Tensor = self._model(torch.tensor([list(tokens)])).logits[0]
        return result


def held_out_text() -> str:
    """Text of ours that no calibration uses."""
    return resources.files("toolchain").joinpath("data", "heldout.txt").read_text(encoding="utf-8")


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


def measure(
    reference: Model,
    model: Model,
    windows: Sequence[Sequence[int]],
    *,
    text: str,
    on_window: OnWindow = lambda done, total: None,
) -> Fidelity:
    """Compares `model` with `reference` on `windows`; `text` names where they come from."""
    import torch

    klds: list[torch.Tensor] = []
    same: list[torch.Tensor] = []
    losses: list[torch.Tensor] = []
    losses_float: list[torch.Tensor] = []
    for number, window in enumerate(windows, 1):
        expected = torch.log_softmax(reference.logits(window), dim=-1)
        got = torch.log_softmax(model.logits(window), dim=-1)
        klds.append((expected.exp() * (expected - got)).sum(-1))
        same.append(expected.argmax(-1) == got.argmax(-1))
        following = torch.tensor(window[1:]).unsqueeze(1)
        losses.append(-got[:-1].gather(1, following))
        losses_float.append(-expected[:-1].gather(1, following))
        on_window(number, len(windows))
    kld = torch.cat(klds)
    return Fidelity(
        text=text,
        tokens=len(kld),
        windows=len(windows),
        mean_kld=float(kld.mean()),
        p99_kld=float(kld.quantile(0.99)),
        perplexity=float(torch.cat(losses).mean().exp()),
        perplexity_float=float(torch.cat(losses_float).mean().exp()),
        top1_agreement=float(torch.cat(same).float().mean()),
    )


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
