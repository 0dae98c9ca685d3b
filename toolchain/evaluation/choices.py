"""Multiple choice: whether a model finds the right answer the likeliest, the package beside the float checkpoint.

The prompt is the question and "Answer:", as EleutherAI's lm-evaluation-harness has it for ARC; each answer's score is
the sum of its tokens' log-probabilities behind that over its length in UTF-8 bytes, which is the harness's `acc_norm`
(https://blog.eleuther.ai/multiple-choice-normalization/). The best score is the model's choice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.engine.tokenizer import Tokenizer
from runtime.errors import Fault, MaterialError

OWN_QUESTIONS = "edgeqwen questions"
"""What our own set of questions is called."""

_MOST_FAULTS = 8


@dataclass(frozen=True)
class Question:
    """A question, its answers, and which of them is right, counted from 0."""

    query: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Tokens:
    """A question as a model reads it: what its answers have in common, and what each has beside."""

    prefix: tuple[int, ...]
    endings: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Score:
    """How many answers are right.

    Args:
        share: of the questions.
        stderr: its standard error, over the questions drawn; None for a single one.
    """

    share: float
    stderr: float | None


@dataclass(frozen=True)
class Comparison:
    """Package and float checkpoint on the same questions.

    Args:
        difference: share of the package less share of the float checkpoint, and its standard error, paired by question.
        same: share of the questions on which both choose the same answer, right or wrong.
    """

    questions: int
    package: Score
    float_checkpoint: Score
    difference: Score
    same: float


def read_questions(file: Path | None = None, limit: int | None = None) -> list[Question]:
    """The first `limit` questions of `file`, or of our own set.

    The file has JSON lines such as `{"query": "Question: ...?", "choices": ["...", "..."], "gold": 0}`. Raises
    MaterialError with the number of every line that has none, as far as they can be listed.
    """
    try:
        path = file or resources.files("toolchain").joinpath("data", "choices.jsonl")
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise MaterialError([Fault("", f"cannot be read: {error}")], str(file)) from error
    questions: list[Question] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines, 1):
        if len(questions) == limit:
            break
        if line.strip():
            read = _question(line)
            if isinstance(read, Question):
                questions.append(read)
            else:
                faults.append(Fault(f"line {number:>{len(str(len(lines)))}}", read))
    if faults:
        more = [Fault("~", f"and {len(faults) - _MOST_FAULTS} more lines")] if len(faults) > _MOST_FAULTS else []
        raise MaterialError([*faults[:_MOST_FAULTS], *more], str(file))
    if not questions:
        raise MaterialError([Fault("", "holds no question")], str(file))
    return questions


def _question(line: str) -> Question | str:
    """A question, or what is wrong with it."""
    try:
        data = json.loads(line)
    except ValueError as error:
        return f"is not JSON: {error}"
    if not isinstance(data, dict):
        return "is not a JSON object"
    query, choices, gold = (data.get(key) for key in ("query", "choices", "gold"))
    if not isinstance(query, str) or not query.strip():
        return 'must have the text of a question as "query"'
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        return 'must have two or more texts as "choices"'
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        return f'must have the number of the right answer as "gold", 0 to {len(choices) - 1}'
    return Question(query, tuple(choices), gold)


def tokens_of(question: Question, tokenizer: Tokenizer) -> Tokens:
    """The prompt with each answer, cut where it first differs from the prompt alone or from another answer."""
    prompt = f"{question.query}\nAnswer:"
    texts = [tokenizer.encode(prompt), *(tokenizer.encode(f"{prompt} {choice}") for choice in question.choices)]
    common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))
    return Tokens(tuple(texts[0][:common]), tuple(tuple(text[common:]) for text in texts[1:]))


def chosen(question: Question, log_probabilities: Sequence[float]) -> int:
    """The answer of the highest log-probability for its length in bytes."""
    scores = [score / len(choice.encode()) for score, choice in zip(log_probabilities, question.choices, strict=True)]
    return int(np.argmax(scores))


def compare_choices(questions: Sequence[Question], package: Sequence[int], reference: Sequence[int]) -> Comparison:
    """The share of right choices of both, with standard errors."""
    gold = np.array([question.gold for question in questions])
    right, right_float = ((np.array(choices) == gold).astype(np.float64) for choices in (package, reference))
    return Comparison(
        questions=len(questions),
        package=_score_of(right),
        float_checkpoint=_score_of(right_float),
        difference=_score_of(right - right_float),
        same=float((np.array(package) == np.array(reference)).mean()),
    )


def _score_of(each: NDArray[np.float64]) -> Score:
    """Mean and standard error of the mean, of a sample."""
    stderr = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
    return Score(float(each.mean()), stderr)
