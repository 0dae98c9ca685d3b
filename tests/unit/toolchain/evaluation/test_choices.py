"""Multiple-choice questions: read, cut into tokens, scored and counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tiny
from transformers import AutoModelForCausalLM

from runtime.errors import MaterialError
from runtime.sessions.session import Chunk, Logits, SessionSpec
from toolchain.evaluation.choices import Question, Tokens, chosen, compare_choices, read_questions, tokens_of
from toolchain.evaluation.float_reference import FloatReference
from toolchain.evaluation.scoring import float_scores, session_scores

TEXT = st.text(min_size=1, max_size=12).filter(lambda text: "<|" not in text)
GOOD = {"query": "Question: Is it?", "choices": ["yes", "no"], "gold": 1}


def test_our_own_questions_are_of_use() -> None:
    """Some eighty, none twice, each with one right answer of several that differ; the place of it says nothing."""
    questions = read_questions()
    assert len({question.query for question in questions}) == len(questions) >= 80
    for question in questions:
        assert question.query.startswith("Question: ")
        assert len(set(question.choices)) == len(question.choices) == 4
    assert max(Counter(question.gold for question in questions).values()) < 0.35 * len(questions)


def test_a_file_of_questions_is_read_as_far_as_asked(tmp_path: Path) -> None:
    """Other keys and empty lines do not matter, nor does what comes after the limit."""
    file = tmp_path / "questions.jsonl"
    file.write_text(f"{json.dumps(GOOD | {'id': 7})}\n\n{json.dumps(GOOD)}\nbroken\n")
    question = Question("Question: Is it?", ("yes", "no"), 1)
    assert read_questions(file, 2) == [question, question]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "is not JSON: "),
        ("[1]", "is not a JSON object"),
        (json.dumps(GOOD | {"query": " "}), 'must have the text of a question as "query"'),
        (json.dumps(GOOD | {"choices": ["yes"]}), 'must have two or more texts as "choices"'),
        (json.dumps(GOOD | {"choices": "yes"}), 'must have two or more texts as "choices"'),
        (json.dumps(GOOD | {"gold": 2}), 'must have the number of the right answer as "gold", 0 to 1'),
        (json.dumps(GOOD | {"gold": True}), 'must have the number of the right answer as "gold", 0 to 1'),
        (json.dumps(GOOD | {"gold": "yes"}), 'must have the number of the right answer as "gold", 0 to 1'),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, fault: str) -> None:
    """By its number, with what is wrong."""
    file = tmp_path / "questions.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(MaterialError) as raised:
        read_questions(file)
    [said] = raised.value.faults
    assert str(said).startswith(f"line 2: {fault}")


def test_many_broken_lines_are_not_all_listed(tmp_path: Path) -> None:
    """The first ones in their order, and how many more there are; a file without any question is refused too."""
    file = tmp_path / "questions.jsonl"
    file.write_text("broken\n" * 30)
    with pytest.raises(MaterialError, match=r"line  1: .*line  2: .*and 22 more lines") as raised:
        read_questions(file)
    assert "\n" not in str(raised.value)
    file.write_text("\n")
    with pytest.raises(MaterialError, match="holds no question"):
        read_questions(file)
    with pytest.raises(MaterialError, match="cannot be read"):
        read_questions(tmp_path / "nowhere")


@given(TEXT, st.lists(TEXT, min_size=2, max_size=5))
def test_prefix_and_ending_are_the_whole(query: str, choices: list[str]) -> None:
    """Each answer behind the prompt has these tokens, and no ending is empty."""
    tokenizer = byte_tokenizer()
    tokens = tokens_of(Question(query, tuple(choices), 0), tokenizer)
    for choice, ending in zip(choices, tokens.endings, strict=True):
        assert [*tokens.prefix, *ending] == tokenizer.encode(f"{query}\nAnswer: {choice}")
        assert ending


def test_the_best_for_its_length_is_chosen() -> None:
    """A long answer is not less likely for its length; ü has two bytes."""
    question = Question("Question: ?", ("aaaa", "bü"), 0)
    assert chosen(question, [-3.9, -3.0]) == 0
    assert chosen(question, [-4.1, -3.0]) == 1


def test_shares_have_standard_errors_and_the_difference_is_paired() -> None:
    """As a sample's mean has: p (1 - p) / (n - 1), and of the differences of each question."""
    questions = [Question("?", ("a", "b"), 0)] * 8
    found = compare_choices(questions, [0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1, 1, 0])
    assert (found.package.share, found.float_checkpoint.share, found.same) == (6 / 8, 6 / 8, 6 / 8)
    assert found.package.stderr == pytest.approx((0.75 * 0.25 / 7) ** 0.5)
    assert found.difference.share == 0
    assert found.difference.stderr == pytest.approx(np.std([0] * 5 + [1, 0, -1], ddof=1) / 8**0.5)
    assert compare_choices(questions[:1], [0], [1]).difference.stderr is None


class TorchSession:
    """A `Session` of the float checkpoint, which remembers the tokens of its rows and computes them all each time."""

    def __init__(self, reference: FloatReference, slots: int) -> None:
        self._reference = reference
        self.rows: list[list[int]] = [[] for _ in range(slots)]
        self.spec = SessionSpec(512, 128, slots, 1, "torch")

    def run(self, chunks: list[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        assert [chunk.slot for chunk in chunks] == sorted({chunk.slot for chunk in chunks})
        return np.concatenate([self._compute(chunk) for chunk in chunks])

    def _compute(self, chunk: Chunk) -> Logits:
        assert len(self.rows[chunk.slot]) >= chunk.start
        self.rows[chunk.slot] = [*self.rows[chunk.slot][: chunk.start], *chunk.tokens]
        logits: Logits = self._reference.logits(self.rows[chunk.slot])[-chunk.logits :].numpy()
        return logits

    def copy(self, source: int, target: int, tokens: int) -> None:
        self.rows[target] = self.rows[source][:tokens]

    def clear(self, slot: int, keep: int = 0) -> None:
        del self.rows[slot][keep:]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"), "qwen2")


QUESTIONS = [
    Tokens((5, 6, 7), ((8,), (9,))),
    Tokens((300, 4), ((10, 11, 12), (13,), (14, 15))),
    Tokens((20, 21, 22, 23), ((24, 25), (26, 27), (28, 29, 30, 31), (32,), (33, 34))),
]


def expected_scores(checkpoint: Path) -> list[list[float]]:
    """Each answer computed by itself."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    scores = []
    for question in QUESTIONS:
        scores.append([])
        for ending in question.endings:
            with torch.no_grad():
                logits = model(torch.tensor([[*question.prefix, *ending]])).logits[0]
            places = torch.log_softmax(logits, -1)[len(question.prefix) - 1 : -1]
            scores[-1].append(float(places.gather(1, torch.tensor(ending).unsqueeze(1)).sum()))
    return scores


@pytest.mark.parametrize("slots", [1, 2, 4, 5, 32])
def test_a_package_is_scored_exactly_in_any_number_of_rows(checkpoint: Path, slots: int) -> None:
    """As if each answer were computed by itself; every row is given back."""
    session = TorchSession(FloatReference(checkpoint), slots)
    progress: list[int] = []
    scores = session_scores(session, QUESTIONS, lambda done, total: progress.append(done))
    for got, expected in zip(scores, expected_scores(checkpoint), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)
    assert not any(session.rows)
    assert progress[-1] == len(QUESTIONS)


def test_the_float_checkpoint_is_scored_exactly(checkpoint: Path) -> None:
    """Although the prefix is computed once, and shorter answers are padded."""
    scores = float_scores(FloatReference(checkpoint), QUESTIONS)
    for got, expected in zip(scores, expected_scores(checkpoint), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)
