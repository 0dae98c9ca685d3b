"""Picks the next token from a row of logits.

What is not allowed is out. A bias comes first, then the penalties: repetition over prompt and completion
(transformers' definition), presence and frequency over the completion (OpenAI's). The filters after them are
transformers', in its order: temperature, top-k, top-p, min-p. None sorts the vocabulary (151,936 entries for Qwen): a
threshold leaves few candidates, and the exact filter runs on those.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .sequence import SamplingParams, TokenLogprobs

Logits = NDArray[np.float32]

_SMALLEST_PENALTY = 1e-30  # a logit divided by less may be infinite


class Sampler:
    """The sampler of one sequence: its random numbers, and which tokens it has seen.

    Args:
        params: how to pick.
        prompt: token ids that the repetition penalty counts as seen.
        vocab_size: length of the rows of logits.
    """

    def __init__(self, params: SamplingParams, prompt: Iterable[int], vocab_size: int) -> None:
        self._params = params
        self._random = np.random.Generator(np.random.Philox(params.seed))
        self._seen: NDArray[np.bool_] | None = None
        if params.repetition_penalty != 1.0:
            self._seen = np.zeros(vocab_size, np.bool_)
            self._seen[np.fromiter(prompt, np.int64)] = True
        self._counts: NDArray[np.int32] | None = None
        if params.presence_penalty or params.frequency_penalty:
            self._counts = np.zeros(vocab_size, np.int32)
        self._biased = np.array([token for token, _ in params.logit_bias], np.int64)
        self._bias = np.array([bias for _, bias in params.logit_bias], np.float32)

    def pick(self, logits: Logits, allowed: NDArray[np.bool_] | None = None) -> int:
        """Samples from float32 `[vocab]`, which may be changed in place. Raises ValueError if no logit is finite.

        Args:
            allowed: bool `[vocab]`, tokens to pick from; None allows all.
        """
        if allowed is not None:
            logits[~allowed] = -np.inf
        if self._params.temperature == 0:
            token = self._best(logits)
        else:
            ids, probabilities = self.distribution(logits)
            cumulative = np.cumsum(probabilities)
            place = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
            token = int(ids[min(place, len(ids) - 1)])
        self.saw(token)
        return token

    def saw(self, token: int) -> None:
        """Counts a token of the completion for the penalties."""
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1

    def distribution(self, logits: Logits) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The tokens that the filters keep, and their probabilities before renormalizing."""
        best = float(logits[self._best(logits)])
        params = self._params
        if params.top_k:
            ids = _largest(logits, best, min(params.top_k, logits.size))
            scaled = (logits[ids].astype(np.float64) - best) / params.temperature
            weights = np.exp(scaled)
            total = float(weights.sum())
        else:
            ids, weights, total = _likely(logits, best, params.temperature, params.top_p)
        probabilities = weights / total
        if params.top_p < 1:
            order = np.lexsort((ids, -weights))
            ids, probabilities = ids[order], probabilities[order]
            before = np.cumsum(probabilities) - probabilities
            keep = max(1, int(np.count_nonzero(before < params.top_p)))
            ids, probabilities = ids[:keep], probabilities[:keep]
        if params.min_p > 0:
            likely = probabilities >= params.min_p * probabilities.max()
            ids, probabilities = ids[likely], probabilities[likely]
        return ids, probabilities

    def _best(self, logits: Logits) -> int:
        """The most likely token, once bias and penalties are in `logits`."""
        if self._biased.size:
            logits[self._biased] += self._bias
        if self._seen is not None:
            at = np.flatnonzero(self._seen)
            some, penalty = logits[at], np.float32(max(self._params.repetition_penalty, _SMALLEST_PENALTY))
            logits[at] = np.where(some > 0, some / penalty, some * penalty)
        if self._counts is not None:
            at = np.flatnonzero(self._counts)
            logits[at] -= self._params.presence_penalty + self._params.frequency_penalty * self._counts[at]
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):
            raise ValueError("the model's logits are not finite")
        return best


def logprobs(logits: Logits, token: int, top: int) -> TokenLogprobs:
    """Of float32 `[vocab]` as the model gave it: the log-probability of `token`, and the `top` largest with theirs."""
    best = float(logits.max())
    total = best + float(np.log(np.exp(logits - np.float32(best)).sum(dtype=np.float64)))
    places = _largest(logits, best, min(top, logits.size))
    return TokenLogprobs(float(logits[token]) - total, tuple((int(at), float(logits[at]) - total) for at in places))


def _largest(logits: Logits, best: float, count: int) -> NDArray[np.int64]:
    """The places of the `count` largest, the largest first; of equal ones, the first."""
    margin = 8.0
    candidates = np.flatnonzero(logits >= best - margin)
    while candidates.size < count:
        margin *= 2
        candidates = np.flatnonzero(logits >= best - margin) if margin < 1e4 else np.arange(logits.size)
    order = np.argsort(-logits[candidates], kind="stable")
    kept: NDArray[np.int64] = candidates[order[:count]]
    return kept


def _likely(
    logits: Logits, best: float, temperature: float, mass: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """The most likely tokens that hold at least `mass` of the probability: places, weights, and all weights' sum."""
    with np.errstate(over="ignore"):  # at a tiny temperature, minus infinity is right
        weights = np.exp((logits - np.float32(best)) / np.float32(temperature))
    total = float(weights.sum(dtype=np.float64))
    floor = 1e-2
    while mass < 1:
        candidates = np.flatnonzero(weights >= floor)
        some = weights[candidates].astype(np.float64)
        if some.sum() >= mass * total:
            return candidates, some, total
        if floor < 1e-12:
            break
        floor /= 16
    return np.arange(logits.size), weights.astype(np.float64), total
