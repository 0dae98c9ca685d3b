"""How likely a package, or its float checkpoint, finds the answers to multiple-choice questions.

What the answers of a question have in common is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.sessions.session import Chunk, Session

from .choices import Tokens

ROWS = 32
"""Of a session: enough for the answers of eight questions at once."""

Logits = NDArray[np.float32]
OnQuestions = Callable[[int, int], None]
"""Called with the number of questions done and how many there are."""


class CanGoOn(Protocol):
    """What is needed of the float checkpoint."""

    def logits_behind(self, prefix: Sequence[int], endings: Sequence[Sequence[int]]) -> list[Logits]:
        """For each ending float32 `[len(ending) + 1, vocab]`, after the prefix and after each token of the ending."""
        ...


def float_scores(
    reference: CanGoOn, questions: Sequence[Tokens], on_questions: OnQuestions = lambda done, total: None
) -> list[list[float]]:
    """Of every question and ending, the sum of the log-probabilities of the ending's tokens."""
    scores = []
    for done, question in enumerate(questions, 1):
        logits = reference.logits_behind(question.prefix, [ending[:-1] for ending in question.endings])
        scores.append([_log_probability(*each) for each in zip(logits, question.endings, strict=True)])
        on_questions(done, len(questions))
    return scores


def session_scores(
    session: Session, questions: Sequence[Tokens], on_questions: OnQuestions = lambda done, total: None
) -> list[list[float]]:
    """`float_scores` of a package, in a session of any number of rows: of as many questions at once as have room."""
    slots = session.spec.slots
    rows = min(slots, max(len(question.endings) for question in questions))
    scores: list[list[float]] = []
    for at in range(0, len(questions), slots // rows):
        scores += _score_together(session, questions[at : at + slots // rows], rows)
        on_questions(len(scores), len(questions))
    for slot in range(slots):
        session.clear(slot)
    return scores


def _score_together(session: Session, questions: Sequence[Tokens], rows: int) -> list[list[float]]:
    """Each question has `rows` slots, and its answers go through them in as many turns as it takes."""
    first = [Chunk(number * rows, question.prefix, 0) for number, question in enumerate(questions)]
    begin = session.run(first).copy()
    for chunk in first:
        for slot in range(chunk.slot + 1, chunk.slot + rows):
            session.copy(chunk.slot, slot, len(chunk.tokens))
    scores: list[list[float]] = [[] for _ in questions]
    for turn in range(0, max(len(question.endings) for question in questions), rows):
        places = list(_places(questions, range(turn, turn + rows)))
        chunks = [
            Chunk(number * rows + at - turn, ending[:-1], len(questions[number].prefix), len(ending) - 1)
            for number, at, ending in places
            if len(ending) > 1
        ]
        rest = session.run(chunks) if chunks else begin[:0]
        done = 0
        for number, _, ending in places:
            logits = np.concatenate([begin[number : number + 1], rest[done : done + len(ending) - 1]])
            scores[number].append(_log_probability(logits, ending))
            done += len(ending) - 1
    return scores


def _places(questions: Sequence[Tokens], turn: range) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Number of the question, number of the answer, and its tokens, for the answers whose turn it is."""
    for number, question in enumerate(questions):
        for at, ending in enumerate(question.endings):
            if at in turn:
                yield number, at, ending


def _log_probability(logits: Logits, ending: Sequence[int]) -> float:
    """The sum over the ending's tokens, each after its row of logits `[len(ending), vocab]`."""
    highest = logits.max(axis=1)
    total = np.log(np.exp(logits - highest[:, None]).sum(axis=1, dtype=np.float64)) + highest
    return float((logits[np.arange(len(ending)), list(ending)] - total).sum())
