"""Sampling: the kept tokens and their probabilities are those of transformers, without sorting the vocabulary."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.sampler import Sampler, logprobs
from runtime.engine.sequence import SamplingParams

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


def test_presence_and_frequency_penalties_count_the_answer_only() -> None:
    """A token of the prompt goes free; one that came once loses both, one that came twice loses frequency twice."""
    sampler = Sampler(SamplingParams(presence_penalty=0.25, frequency_penalty=0.5), [0], 3)
    logits = np.array([4.0, 3.625, 0.0], np.float32)
    assert [sampler.pick(logits.copy()) for _ in range(4)] == [0, 1, 0, 1]
    after = logits.copy()
    sampler.pick(after)
    assert after.tolist() == [4.0 - 1.25, 3.625 - 1.25, 0.0]


@given(st.integers(0, 10_000), st.integers(0, VOCABULARY - 1), st.integers(0, 20))
@settings(deadline=None)
def test_logprobs_are_those_of_the_definition(seed: int, token: int, top: int) -> None:
    """Logarithm of the softmax, of the token and of the largest, largest first; the row stays as it was."""
    logits = row(seed)
    expected = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    got = logprobs(logits, token, top)
    assert got.logprob == pytest.approx(expected[token], abs=1e-5)
    assert [at for at, _ in got.top] == np.argsort(-expected, kind="stable")[:top].tolist()
    assert [logprob for _, logprob in got.top] == pytest.approx(sorted(expected)[::-1][:top], abs=1e-5)
    assert np.array_equal(logits, row(seed))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_bans_and_forces(temperature: float) -> None:
    """Whatever the model thinks."""
    forced = SamplingParams(temperature=temperature, logit_bias=((0, -100.0), (2, 100.0)), seed=1)
    banned = SamplingParams(temperature=temperature, logit_bias=((0, -100.0),), seed=1)
    logits = np.array([30.0, 5.0, 1.0], np.float32)
    assert Sampler(forced, [], 3).pick(logits.copy()) == 2
    assert 0 not in {Sampler(banned, [], 3).pick(logits.copy()) for _ in range(20)}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(temperature: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Sampler(SamplingParams(temperature=temperature), [], 3).pick(np.full(3, np.nan, np.float32))


@pytest.fixture(scope="module")
def process() -> ModuleType:
    """Transformers' logits processors; they take seconds to import."""
    pytest.importorskip("torch")
    module: ModuleType = pytest.importorskip("transformers.generation.logits_process")
    return module


def theirs(process: ModuleType, logits: np.ndarray, params: SamplingParams, seen: list[int]) -> np.ndarray:
    """Probabilities by transformers' own processors, in the order in which `generate` puts them."""
    torch = process.torch
    processors = [process.TemperatureLogitsWarper(params.temperature)]
    if params.repetition_penalty != 1 and seen:
        processors.insert(0, process.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.top_k:
        processors.append(process.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(process.TopPLogitsWarper(params.top_p))
    if params.min_p > 0:
        processors.append(process.MinPLogitsWarper(params.min_p))
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    for processor in processors:
        scores = processor(torch.tensor([seen], dtype=torch.long), scores)
    probabilities: np.ndarray = torch.softmax(scores[0], -1).numpy()
    return probabilities


def assert_as_theirs(process: ModuleType, params: SamplingParams, logits: np.ndarray, seen: list[int]) -> None:
    expected = theirs(process, logits, params, seen)
    ids, probabilities = Sampler(params, seen, logits.size).distribution(logits.copy())
    got = np.zeros(logits.size)
    got[ids] = probabilities / probabilities.sum()
    assert set(np.flatnonzero(got > 1e-12)) == set(np.flatnonzero(expected > 1e-12))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@given(
    params=st.builds(
        SamplingParams,
        temperature=st.floats(0.2, 3),
        top_k=st.just(0) | st.integers(1, VOCABULARY),
        top_p=st.just(1.0) | st.floats(0.05, 0.99),
        min_p=st.just(0.0) | st.floats(0.001, 0.9),
        repetition_penalty=st.just(1.0) | st.floats(0.5, 2),
    ),
    seed=st.integers(0, 10_000),
    seen=st.lists(st.integers(0, VOCABULARY - 1), max_size=20),
)
@settings(derandomize=True)  # a border may be nearer to a token than float32 can tell
def test_kept_tokens_and_probabilities_are_those_of_transformers(
    process: ModuleType, params: SamplingParams, seed: int, seen: list[int]
) -> None:
    """The same set is kept, with the same probabilities, for any settings."""
    assert_as_theirs(process, params, row(seed), seen)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05),
        SamplingParams(temperature=0.6, top_k=20, top_p=0.95),
        SamplingParams(temperature=1.0, top_p=0.9),
        SamplingParams(temperature=1.0, min_p=0.05),
    ],
)
def test_a_real_vocabulary_gives_what_transformers_does(process: ModuleType, params: SamplingParams) -> None:
    """Qwen's own recommendations, and settings without top-k, on 151,936 logits."""
    logits = (np.random.default_rng(7).standard_normal(151_936) * 3).astype(np.float32)
    assert_as_theirs(process, params, logits, [1, 5, 5, 151_935])


@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0.05, 1), st.integers(0, 1 << 63))
def test_a_pick_is_always_one_that_is_kept(row_seed: int, top_k: int, top_p: float, seed: int) -> None:
    """No draw leaves what the filters keep."""
    sampler = Sampler(SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, seed=seed), [], VOCABULARY)
    kept, _ = sampler.distribution(row(row_seed))
    assert {sampler.pick(row(row_seed)) for _ in range(10)} <= set(kept.tolist())


def test_another_seed_draws_other_tokens() -> None:
    """Two seeds, and two samplers without one, do not draw alike."""
    for seeds in ((1, 2), (None, None)):
        first, second = (Sampler(SamplingParams(temperature=1.5, seed=seed), [], VOCABULARY) for seed in seeds)
        assert [first.pick(row(i)) for i in range(50)] != [second.pick(row(i)) for i in range(50)]


@pytest.mark.parametrize("params", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-3}])
def test_the_narrowest_filters_are_greedy(params: dict[str, float]) -> None:
    """The most likely token is never filtered out."""
    sampler = Sampler(SamplingParams(**({"temperature": 1.0, "seed": 3} | params)), [], VOCABULARY)
    assert all(sampler.pick(row(i)) == row(i).argmax() for i in range(20))


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1.0])
@pytest.mark.parametrize("penalty", [1e-45, 1e-38, 10.0])
@pytest.mark.parametrize("top_k", [0, 2])
def test_the_most_extreme_requests_get_a_token(temperature: float, penalty: float, top_k: int) -> None:
    """What a request may ask for at the most never fails, since a failing pick fails the others' requests too."""
    params = SamplingParams(
        temperature=temperature,
        repetition_penalty=penalty,
        top_k=top_k,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        logit_bias=((0, -100.0), (1, 100.0)),
        seed=1,
    )
    sampler = Sampler(params, [1], 4)
    for _ in range(3):
        assert 0 <= sampler.pick(np.array([-40, 30, 50, -np.inf], np.float32)) < 3


@pytest.mark.parametrize("bad", [[1, np.nan, 2], [1, np.inf, 2], [-np.inf] * 3])
@pytest.mark.parametrize("params", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 2}])
def test_one_bad_logit_is_an_error(bad: list[float], params: dict[str, float]) -> None:
    """NaN and infinity are found, greedy or not, also in a token that the penalty counts as seen."""
    for seen in ([], [1]):
        sampler = Sampler(SamplingParams(repetition_penalty=1.1, **params), seen, 3)
        with pytest.raises(ValueError, match="not finite"):
            sampler.pick(np.array(bad, np.float32))
