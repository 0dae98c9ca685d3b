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
    """The next token, with its log-probabilities if the request asks for them."""

    token: int
    logprobs: tuple[TokenLogprobs, ...] = ()
    complete: bool = False
    """Whether the answer has with it all that its grammar allows."""

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
        self._matcher = request.grammar.matcher() if request.grammar else None
        self.stop: str | None = None
        """The stop string that was found."""

    @property
    def forced(self) -> tuple[int, ...]:
        """The tokens that must come next, whatever the model says."""
        return self._matcher.forced if self._matcher else ()

    def pick(self, logits: Logits) -> Pick:
        """Samples from float32 `[vocab]`, which may be changed in place, or takes the token that is forced."""
        top = self._request.top_logprobs
        told: tuple[TokenLogprobs, ...] = ()
        if top is None:
            token = self._next(logits)
        else:
            token = self._next(logits.copy())
            told = (logprobs(logits, token, top),)
        return Pick(token, told, self._matcher is not None and self._matcher.complete)

    def _next(self, logits: Logits) -> int:
        if self._matcher is None:
            return self._sampler.pick(logits)
        if forced := self._matcher.forced:
            token = forced[0]
            self._sampler.saw(token)
        else:
            token = self._sampler.pick(logits, self._matcher.allowed())
        self._matcher.accept(token)
        return token

    def accept(self, pick: Pick, generated: int) -> tuple[Delta, FinishReason | None]:
        """Takes the `generated`th token (1 is the first); returns its text and why the completion ends, if it does."""
        if pick.token in self._eos:
            return self._last(pick, "", FinishReason.EOS)
        text, self.stop = self._stops.push(self._detokenizer.push(pick.token))
        if self.stop is not None:
            return pick.delta(text), FinishReason.STOP
        if pick.complete:
            return self._last(pick, text, FinishReason.EOS)
        if generated == self._request.max_tokens:
            return self._last(pick, text, FinishReason.LENGTH)
        return pick.delta(text), None

    def _last(self, pick: Pick, text: str, reason: FinishReason) -> tuple[Delta, FinishReason]:
        """With what was held back for an incomplete character or a stop string, which may turn out to be there."""
        rest, self.stop = self._stops.push(self._detokenizer.flush())
        if self.stop is not None:
            return pick.delta(text + rest), FinishReason.STOP
        return pick.delta(text + rest + self._stops.flush()), reason
