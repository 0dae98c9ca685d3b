"""The text side of one request: picks its tokens and turns them into text, up to where it ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .sampler import Logits, Sampler, logprobs
from .sequence import Delta, FinishReason, Request, TokenLogprobs
from .tokenizer import Tokenizer
from .turn import Part, Turn
from .turn_text import TurnText, Written


@dataclass(frozen=True)
class Pick:
    """The next token, with its log-probabilities if the request asks for them."""

    token: int
    part: Part = Part.ANSWER
    logprobs: tuple[TokenLogprobs, ...] = ()
    complete: bool = False
    """Whether the answer has with it all that its grammar allows."""

    def delta(self, written: Written) -> Delta:
        return Delta(written.answer, (self.token,), self.logprobs, written.reasoning, written.calls)


class Completion:
    """Sampler, turn and text of one request."""

    def __init__(self, request: Request, tokenizer: Tokenizer, eos_token_ids: frozenset[int], vocab_size: int) -> None:
        self._request = request
        self._eos = frozenset() if request.ignore_eos else eos_token_ids
        self._sampler = Sampler(request.sampling, request.prompt, vocab_size)
        self._turn = Turn(request.turn)
        self._text = TurnText(request.turn, request.stop, tokenizer)

    @property
    def stop(self) -> str | None:
        """The stop string that was found."""
        return self._text.stop

    @property
    def forced(self) -> tuple[int, ...]:
        """The tokens that must come next, whatever the model says."""
        return self._turn.forced

    def pick(self, logits: Logits) -> Pick:
        """Samples from float32 `[vocab]`, which may be changed in place, or takes the token that is forced.

        Raises GrammarError if a structure cannot be kept any longer.
        """
        top = self._request.top_logprobs
        told: tuple[TokenLogprobs, ...] = ()
        if top is None:
            token = self._next(logits)
        else:
            token = self._next(logits.copy())
            told = (logprobs(logits, token, top),)
        return Pick(token, self._turn.accept(token), told, self._turn.complete)

    def _next(self, logits: Logits) -> int:
        if forced := self._turn.forced:
            self._sampler.saw(forced[0])
            return forced[0]
        if not self._turn.may_end:
            logits[np.fromiter(self._eos, np.int64)] = -np.inf
        return self._sampler.pick(logits, self._turn.allowed())

    def accept(self, pick: Pick, generated: int) -> tuple[Delta, FinishReason | None]:
        """Takes the `generated`th token (1 is the first); returns its text and why the completion ends, if it does."""
        if pick.token in self._eos:
            return self._last(pick, Written(), FinishReason.EOS)
        written = self._text.push(pick.token, pick.part)
        if self.stop is not None:
            return pick.delta(written), FinishReason.STOP
        if pick.complete:
            return self._last(pick, written, FinishReason.EOS)
        if generated == self._request.max_tokens:
            return self._last(pick, written, FinishReason.LENGTH)
        return pick.delta(written), None

    def _last(self, pick: Pick, written: Written, reason: FinishReason) -> tuple[Delta, FinishReason]:
        """With what was held back."""
        written += self._text.flush()
        if self.stop is not None:
            reason = FinishReason.STOP
        elif reason is FinishReason.EOS and self._text.calls:
            reason = FinishReason.TOOL_CALLS
        return pick.delta(written), reason
