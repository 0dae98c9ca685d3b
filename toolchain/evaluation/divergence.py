"""How far one model's predictions are from another's, position by position.

The measure is the one llama.cpp's `--kl-divergence` made common: the mean over positions of KL(reference || model),
beside perplexity and how often both would pick the same token.

torch takes a second to import, and a build from its cache needs none of it: it is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.package import Fidelity

if TYPE_CHECKING:
    import torch

LIKELIEST = 3
"""Tokens that are kept of each prediction."""

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]
OnWindow = Callable[[int, int], None]
"""Called with the number of windows done and how many there are."""


class Model(Protocol):
    """What can be compared."""

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """float32 `[len(tokens), vocab]`."""
        ...


@dataclass(frozen=True)
class Predictions:
    """What a model says comes next at each of n positions.

    Args:
        tokens: the LIKELIEST ones, best first, `[n, LIKELIEST]`.
        probabilities: theirs.
        loss: of the token that did come, -log p; nan behind the last token of a window.
    """

    tokens: Tokens
    probabilities: Floats
    loss: Floats

    @property
    def perplexity(self) -> float:
        return float(np.exp(np.nanmean(self.loss, dtype=np.float64)))


@dataclass(frozen=True)
class Divergence:
    """Two models on the same windows; what follows has a place for each of n positions.

    Args:
        windows: the tokens, window after window, `[n]` in all.
        kld: KL(reference || model), in nats.
        following: the token that did come; -1 behind the last token of a window.
    """

    windows: Sequence[Sequence[int]]
    kld: Floats
    reference: Predictions
    model: Predictions
    following: Tokens

    @property
    def same_top(self) -> NDArray[np.bool_]:
        """Whether both find the same token the likeliest."""
        return np.equal(self.reference.tokens[:, 0], self.model.tokens[:, 0])

    @property
    def offsets(self) -> Tokens:
        """How far into its window each position is."""
        return np.concatenate([np.arange(len(window)) for window in self.windows])

    def fidelity(self, text: str) -> Fidelity:
        """The summary that `build.json` has; `text` names where the windows come from."""
        return Fidelity(
            text=text,
            tokens=len(self.kld),
            windows=len(self.windows),
            mean_kld=float(self.kld.mean(dtype=np.float64)),
            p99_kld=float(np.quantile(self.kld, 0.99)),
            perplexity=self.model.perplexity,
            perplexity_float=self.reference.perplexity,
            top1_agreement=float(self.same_top.mean()),
        )


def diverge(
    reference: Model,
    model: Model,
    windows: Sequence[Sequence[int]],
    *,
    on_window: OnWindow = lambda done, total: None,
) -> Divergence:
    """Compares `model` with `reference` at every position of `windows`."""
    import torch

    klds: list[Floats] = []
    expected_parts: list[Predictions] = []
    got_parts: list[Predictions] = []
    for number, window in enumerate(windows, 1):
        expected = torch.log_softmax(reference.logits(window), dim=-1)
        got = torch.log_softmax(model.logits(window), dim=-1)
        klds.append((expected.exp() * (expected - got)).sum(-1).numpy())
        expected_parts.append(_predictions(expected, window))
        got_parts.append(_predictions(got, window))
        on_window(number, len(windows))
    return Divergence(
        windows=windows,
        kld=np.concatenate(klds),
        reference=_joined(expected_parts),
        model=_joined(got_parts),
        following=np.concatenate([[*window[1:], -1] for window in windows]),
    )


def _predictions(log_probabilities: torch.Tensor, window: Sequence[int]) -> Predictions:
    import torch

    best = log_probabilities.topk(min(LIKELIEST, log_probabilities.shape[1]))
    following = torch.tensor(window[1:]).unsqueeze(1)
    loss = -log_probabilities[:-1].gather(1, following).squeeze(1).numpy()
    return Predictions(best.indices.numpy(), best.values.exp().numpy(), np.append(loss, np.float32(np.nan)))


def _joined(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.loss for part in parts]),
    )
