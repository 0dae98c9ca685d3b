"""The text side of one request: picks its tokens and turns them into text, up to where it ends."""

from __future__ import annotations

from .sampler import Sampler
from .sequence import Delta, FinishReason, Request
from .session import Logits
from .stop import StopMatcher
from .tokenizer import Tokenizer


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

    def pick(self, logits: Logits) -> int:
        """Samples from float32 `[vocab]`, which may be changed in place."""
        return self._sampler.pick(logits)

    def accept(self, token: int, generated: int) -> tuple[Delta, FinishReason | None]:
        """Takes the `generated`th token (1 is the first); returns its text and why the completion ends, if it does."""
        if token in self._eos:
            return self._last(token, "", FinishReason.EOS)
        text, self.stop = self._stops.push(self._detokenizer.push(token))
        if self.stop is not None:
            return Delta(text, (token,)), FinishReason.STOP
        if generated == self._request.max_tokens:
            return self._last(token, text, FinishReason.LENGTH)
        return Delta(text, (token,)), None

    def _last(self, token: int, text: str, reason: FinishReason) -> tuple[Delta, FinishReason]:
        """With what was held back for an incomplete character or a stop string, which may turn out to be there."""
        rest, self.stop = self._stops.push(self._detokenizer.flush())
        if self.stop is not None:
            return Delta(text + rest, (token,)), FinishReason.STOP
        return Delta(text + rest + self._stops.flush(), (token,)), reason
