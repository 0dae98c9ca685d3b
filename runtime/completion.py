"""The text side of one request: picks its tokens and turns them into text, up to where it ends."""

from __future__ import annotations

from dataclasses import dataclass

from .sampler import Sampler, logprobs
from .sequence import Delta, FinishReason, Request, TokenLogprobs
from .session import Logits
from .stop import StopMatcher
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Pick:
    """A sampled token, with its log-probabilities if the request asks for them."""

    token: int
    logprobs: tuple[TokenLogprobs, ...] = ()

    def delta(self, text: str) -> Delta:
        return Delta(text, (self.token,), self.logprobs)


class Completion:
    """Sampler, detokenizer and stop strings of one request."""

    def __init__(self, request: Request, tokenizer: Tokenizer, eos_token_ids: frozenset[int], vocab_size: int) -> None:
        self._request = request
        self._eos = frozenset() if request.ignore_eos else eos_token_ids
        self._sampler = Sampler(request.sampling, request.prompt, vocab_size)
        self._detokenizer = tokenizer.detokenizer()
        self._stops = StopMatcher(request.stop)
        self.stop: str | None = None
        """The stop string that was found."""

    def pick(self, logits: Logits) -> Pick:
        """Samples from float32 `[vocab]`, which may be changed in place."""
        top = self._request.top_logprobs
        if top is None:
            return Pick(self._sampler.pick(logits))
        token = self._sampler.pick(logits.copy())
        return Pick(token, (logprobs(logits, token, top),))

    def accept(self, pick: Pick, generated: int) -> tuple[Delta, FinishReason | None]:
        """Takes the `generated`th token (1 is the first); returns its text and why the completion ends, if it does."""
        if pick.token in self._eos:
            return self._last(pick, "", FinishReason.EOS)
        text, self.stop = self._stops.push(self._detokenizer.push(pick.token))
        if self.stop is not None:
            return pick.delta(text), FinishReason.STOP
        if generated == self._request.max_tokens:
            return self._last(pick, text, FinishReason.LENGTH)
        return pick.delta(text), None

    def _last(self, pick: Pick, text: str, reason: FinishReason) -> tuple[Delta, FinishReason]:
        """With what was held back for an incomplete character or a stop string, which may turn out to be there."""
        rest, self.stop = self._stops.push(self._detokenizer.flush())
        if self.stop is not None:
            return pick.delta(text + rest), FinishReason.STOP
        return pick.delta(text + rest + self._stops.flush()), reason
