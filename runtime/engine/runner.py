"""The model's side of a step: what its rows compute, with the tokens that are guessed to follow."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress

from ..sessions.session import Chunk, RestingSession, Session
from .live import Live, Ready
from .lowering import Lowering
from .scheduler import Decode, Prefill, Step
from .sequence import Sequence
from .speculation import MAX_GUESS, Guesser, choose_widths


class Runner:
    """Runs steps on a session until it is closed, on the engine's thread.

    Args:
        session: the loaded model.
        rows: that run at once, at most.
        token_cost: of a further token in a run, against a run with one.
    """

    def __init__(self, session: Session, *, rows: int, token_cost: float) -> None:
        self._session = session
        self._many_logits = session.spec.many_logits
        self._rows = rows
        self._token_cost = token_cost

    def keep_to(self, lowering: Lowering) -> None:
        """Runs on as many threads as that leaves. Raises SessionError."""
        lowering.set_threads(self._session)

    def run(self, step: Step, live: Mapping[Sequence, Live]) -> list[Ready]:
        """What `step` computes, for each sequence that gets tokens now. Sequences that ended meanwhile are not `live`.

        Raises SessionError.
        """
        for clear in step.clear:
            self._session.clear(clear.slot, clear.keep)
        if copy := step.copy:
            self._session.copy(copy.source, copy.target, copy.tokens)
        runs = step.runs
        return [each for rows in runs for each in self._compute(rows, live, keep=rows is not runs[-1])]

    def rest(self) -> None:
        """No request is left."""
        if isinstance(self._session, RestingSession):
            self._session.rest()

    def close(self) -> None:
        """Lets the session go, if it has not."""
        with suppress(AttributeError):
            del self._session

    def _compute(self, rows: list[Prefill | Decode], live: Mapping[Sequence, Live], *, keep: bool) -> list[Ready]:
        """One run, of one adapter: a chunk of a prompt, and of rows that decode the last token and what is guessed to
        follow it. With `keep`, the logits outlive the next run."""
        decodes = [row for row in rows if isinstance(row, Decode)]
        free = (row.sequence for row in decodes if not self._must_be_exact(row))
        guessed = {sequence: its for sequence in free if (its := live.get(sequence))}
        guesses = _guesses_of(guessed, len(decodes), many_logits=self._many_logits, token_cost=self._token_cost)
        chunks = [_chunk_of(row, guesses.get(row.sequence, ())) for row in rows]
        logits = self._session.run(
            chunks,
            adapter=rows[0].sequence.request.adapter,
            deterministic=any(map(self._must_be_exact, rows)),
        )
        if keep:
            logits = logits.copy()
        ends = itertools.accumulate(chunk.logits for chunk in chunks)
        return [
            Ready(row.sequence, logits[end - chunk.logits : end], guesses.get(row.sequence, ()))
            for row, chunk, end in zip(rows, chunks, ends, strict=True)
            if chunk.logits
        ]

    def _must_be_exact(self, row: Prefill | Decode) -> bool:
        """Whether what is computed beside it must not matter. Where one runs at a time, nothing ever is."""
        return row.sequence.request.deterministic and self._rows > 1


def _chunk_of(row: Prefill | Decode, guess: tuple[int, ...]) -> Chunk:
    """What a run computes of it."""
    sequence = row.sequence
    if isinstance(row, Decode):
        return Chunk(row.slot, (sequence.output[-1], *guess), sequence.computed, logits=1 + len(guess))
    tokens = sequence.request.prompt[row.start : row.start + row.tokens]
    return Chunk(row.slot, tokens, row.start, logits=int(row.last))


def _guesses_of(
    rows: Mapping[Sequence, Live], tokens: int, *, many_logits: bool, token_cost: float
) -> dict[Sequence, tuple[int, ...]]:
    """For each of `rows` the tokens that must follow, or the part of its guess that is worth computing now.

    Args:
        tokens: of the step without them.
        many_logits: whether the session gives logits for several tokens of a row.
        token_cost: of a further token in a step, against a step with one.
    """
    guesses: dict[Sequence, tuple[int, ...]] = {}
    offers: list[tuple[Sequence, Guesser, int]] = []
    for sequence, live in rows.items():
        useful = sequence.request.max_tokens - len(sequence.output) - 1
        if many_logits and (forced := live.completion.forced[: min(useful, MAX_GUESS)]):
            guesses[sequence] = forced
        elif live.guesser and (guess := live.guesser.guess[:useful]):
            offers.append((sequence, live.guesser, len(guess)))
    tokens += sum(map(len, guesses.values()))
    widths = choose_widths([offer[1:] for offer in offers], tokens=tokens, token_cost=token_cost)
    for (sequence, guesser, _), width in zip(offers, widths, strict=True):
        guesses[sequence] = guesser.guess[:width]
    return guesses
