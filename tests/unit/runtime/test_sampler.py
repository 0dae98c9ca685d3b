"""Sampling: the kept tokens and their probabilities are those of transformers, without sorting the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.sampler import Sampler
from runtime.sequence import SamplingParams

VOCABULARY = 300


def row(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(VOCABULARY) * 4).astype(np.float32)


def reference(logits: np.ndarray, params: SamplingParams, seen: list[int]) -> np.ndarray:
    """Probabilities by the definition: penalty, temperature, top-k, top-p, min-p, in that order, on the whole row."""
    x = logits.astype(np.float64)
    for token in set(seen):
        x[token] = x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
    x /= params.temperature
    if params.top_k:
        x[x < np.sort(x)[-params.top_k]] = -np.inf
    order = np.argsort(-x, kind="stable")
    p = np.exp(x - x.max())
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= params.top_p]] = 0
    p[p < params.min_p * p.max()] = 0
    return p / p.sum()


@given(
    st.builds(
        SamplingParams,
        temperature=st.floats(0.2, 3),
        top_k=st.integers(0, VOCABULARY),
        top_p=st.floats(0.05, 1),
        min_p=st.floats(0, 0.9),
        repetition_penalty=st.floats(0.5, 2),
    ),
    st.integers(0, 10_000),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=20),
)
@settings(deadline=None)
def test_kept_tokens_have_the_probabilities_of_the_definition(
    params: SamplingParams, seed: int, seen: list[int]
) -> None:
    """Tokens and probabilities before the draw, for any settings."""
    sampler, logits = Sampler(params, seen, VOCABULARY), row(seed)
    expected = reference(logits, params, seen)
    ids, probabilities = sampler.distribution(logits)
    got = np.zeros(VOCABULARY)
    got[ids] = probabilities / probabilities.sum()
    np.testing.assert_allclose(got, expected, atol=2e-4)


def test_draws_follow_the_probabilities() -> None:
    """20,000 draws from five tokens: every share within 2 % of its probability."""
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.08, 0.02], np.float32))
    sampler = Sampler(SamplingParams(temperature=1.0, seed=1), [], 5)
    counts = np.bincount([sampler.pick(logits.copy()) for _ in range(20_000)], minlength=5)
    np.testing.assert_allclose(counts / 20_000, np.exp(logits), atol=0.02)


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = np.array([1, 5, 5, 2], np.float32)
    assert Sampler(SamplingParams(), [], 4).pick(logits) == 1


def test_the_same_seed_draws_the_same_tokens() -> None:
    params = SamplingParams(temperature=1.5, seed=42)
    first, second = (Sampler(params, [], VOCABULARY) for _ in range(2))
    assert [first.pick(row(i)) for i in range(50)] == [second.pick(row(i)) for i in range(50)]


def test_a_repetition_penalty_counts_prompt_and_answer() -> None:
    """Greedy never picks a seen token again while an unseen one is close."""
    sampler = Sampler(SamplingParams(repetition_penalty=5.0), [0], 4)
    logits = np.array([3.0, 2.9, 2.8, 2.7], np.float32)
    assert [sampler.pick(logits.copy()) for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(temperature: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Sampler(SamplingParams(temperature=temperature), [], 3).pick(np.full(3, np.nan, np.float32))
