"""The measures between two models: exact, and the same as torch's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolchain.evaluation.divergence import diverge

WINDOWS = [[1, 2, 3, 4, 0], [4, 4, 0]]
VOCABULARY = 6


class Table:
    """A model whose logits depend on the place in the window and the window's length."""

    def __init__(self, seed: int, scale: float = 2.0) -> None:
        self._seed, self._scale = seed, scale

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self._seed + len(tokens))
        return self._scale * torch.randn(len(tokens), VOCABULARY, generator=generator)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_figures_are_those_of_torch(one: int, other: int) -> None:
    """KL divergence, cross entropy and top tokens, of all windows together."""
    reference, model = Table(one), Table(other)
    found = diverge(reference, model, WINDOWS)
    kld, loss = [], []
    for window in WINDOWS:
        expected, got = reference.logits(window), model.logits(window)
        log_expected, log_got = expected.log_softmax(-1), got.log_softmax(-1)
        kld.append(torch.nn.functional.kl_div(log_got, log_expected, log_target=True, reduction="none").sum(-1))
        loss.append(torch.nn.functional.cross_entropy(got[:-1], torch.tensor(window[1:]), reduction="none"))
    np.testing.assert_allclose(found.kld, torch.cat(kld), atol=1e-5)
    assert found.model.perplexity == pytest.approx(float(torch.cat(loss).mean().exp()), rel=1e-5)
    fidelity = found.fidelity("text")
    assert (fidelity.windows, fidelity.tokens) == (2, 8)
    assert fidelity.mean_kld == pytest.approx(float(torch.cat(kld).mean()), abs=1e-5)
    assert fidelity.mean_kld >= 0
    assert fidelity.top1_agreement == found.same_top.mean()
    assert list(found.offsets) == [0, 1, 2, 3, 4, 0, 1, 2]
    assert list(found.following) == [2, 3, 4, 0, -1, 4, 0, -1]


def test_a_model_beside_itself_differs_in_nothing() -> None:
    """Not even where rounding could show."""
    found = diverge(Table(1), Table(1), WINDOWS)
    assert found.fidelity("text").mean_kld == 0
    assert found.same_top.all()
    assert found.model.perplexity == found.reference.perplexity


def test_the_likeliest_tokens_are_kept_best_first() -> None:
    """With their probabilities."""
    model = Table(3)
    found = diverge(Table(1), model, [WINDOWS[0]]).model
    probabilities = model.logits(WINDOWS[0]).softmax(-1)
    for at, row in enumerate(probabilities):
        assert list(found.tokens[at]) == list(row.argsort(descending=True)[:3])
    np.testing.assert_allclose(found.probabilities, probabilities.gather(1, torch.tensor(found.tokens)), rtol=1e-5)
