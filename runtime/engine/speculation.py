"""Guesses what a request says next, so that one step can compute several of its tokens.

The guess needs no second model: where the request's last few tokens stood before, in its prompt or its answer, it takes
those that followed there (prompt lookup decoding; the "prompt n-gram" of vLLM and transformers). The step computes the
guessed tokens beside the last sampled one, and the sampler takes tokens from its logits for as long as they are those
that were guessed: what comes out is what would have come one by one.

A guess costs arithmetic, so each is as wide as pays. How often a request's guesses are right is counted also while none
is computed, since the next token tells whether it would have been; a guess that begins is right less often than one
that goes on from a right one. Nothing here looks at a clock: the same request alone takes the same steps, so that
kernels that round by the number of tokens round it alike.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

MAX_GUESS = 15
_MATCHES = (4, 2)  # how many of the last tokens have to have been said before: the longer match is right more often
_TOKEN_BYTES = array("i").itemsize
_LEARN = 0.15  # weight of the newest guess in how often they are right
_WORTH = 1.05  # how much more a second a step with guesses has to promise, as what it promises is an estimate
TOKEN_COST = 0.18
"""Of a further token in a step, against a step with one, where nothing was measured."""


class Guesser:
    """What one request is likely to say next.

    Args:
        prompt: its token ids.
    """

    def __init__(self, prompt: Iterable[int]) -> None:
        self._said = bytearray(array("i", prompt))
        self.guess: tuple[int, ...] = ()
        """At most MAX_GUESS tokens that may follow."""
        self._right = {False: 0.3, True: 0.7}  # how often, by whether the token before was as guessed
        self._copying = False

    def accept(self, tokens: Sequence[int]) -> None:
        """Takes the tokens that did follow, and guesses on from there."""
        for token, guessed in zip(tokens, self.guess, strict=False):
            right = token == guessed
            self._right[self._copying] += _LEARN * (right - self._right[self._copying])
            self._copying = right
            if not right:
                break
        if not self.guess:
            self._copying = False
        self._said += array("i", tokens).tobytes()
        self.guess = self._look_up()

    def chances(self, width: int) -> list[float]:
        """How likely each of the first `width` tokens of the guess is to be right, and those before it."""
        first, following = self._right[self._copying], self._right[True]
        return [first * following**before for before in range(width)]

    def _look_up(self) -> tuple[int, ...]:
        return next(filter(None, map(self._what_followed, _MATCHES)), ())

    def _what_followed(self, tokens: int) -> tuple[int, ...]:
        """The last time that the last so many tokens were said before."""
        suffix = self._said[-tokens * _TOKEN_BYTES :]
        end = len(self._said) - _TOKEN_BYTES  # the occurrence that ends the text is no news
        while (at := self._said.rfind(suffix, 0, end)) >= 0:
            if at % _TOKEN_BYTES == 0:
                follows = at + len(suffix)
                return tuple(array("i", self._said[follows : follows + MAX_GUESS * _TOKEN_BYTES]))
            end = at + len(suffix) - 1
        return ()


def choose_widths(offers: Sequence[tuple[Guesser, int]], *, tokens: int, token_cost: float = TOKEN_COST) -> list[int]:
    """How many guessed tokens of each offer a step should compute to yield the most tokens in its time.

    Kernels take tokens in pairs, so that in a step with guesses an odd one costs as much as two.

    Args:
        offers: the guessers that have a guess, and how many tokens of it the request has a use for.
        tokens: that the step computes anyway; each yields one.
        token_cost: of a further token in a step, against a step with one.
    """
    likeliest = sorted(
        ((chance, at) for at, (guesser, useful) in enumerate(offers) for chance in guesser.chances(useful)),
        reverse=True,
    )
    expected = float(tokens)
    best, most = 0, _WORTH * expected / (1 + token_cost * (tokens - 1))
    for guesses, (chance, _) in enumerate(likeliest, 1):
        expected += chance
        computed = tokens + guesses
        rate = expected / (1 + token_cost * (computed + computed % 2 - 1))
        if rate > most:
            best, most = guesses, rate
    chosen = Counter(at for _, at in likeliest[:best])
    return [chosen[at] for at in range(len(offers))]
