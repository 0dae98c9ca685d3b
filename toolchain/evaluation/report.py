"""What an evaluation found, as data and as rows for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.engine.tokenizer import Tokenizer

from .choices import Comparison, Score
from .divergence import Divergence, Predictions

_WORST = 12
_CONTEXT_TOKENS = 16


@dataclass(frozen=True)
class Subject:
    """The package, and the float checkpoint that it is compared with."""

    package: str
    variant: str
    precision: str
    build_digest: str
    provider: str
    against: str
    against_digest: str


@dataclass(frozen=True)
class Likely:
    """A token as text, and how likely a model finds it."""

    text: str
    probability: float


@dataclass(frozen=True)
class Position:
    """One place in the text: what is before it, what came, and what both expected, the likeliest first."""

    kld: float
    before: str
    came: str | None
    float_checkpoint: tuple[Likely, ...]
    package: tuple[Likely, ...]


@dataclass(frozen=True)
class KldPart:
    """Package against float checkpoint, token by token. KLD is KL(float || package) in nats."""

    text: str
    windows: int
    tokens: int
    mean_kld: float
    median_kld: float
    p99_kld: float
    top1_agreement: float
    perplexity: float
    perplexity_float: float
    worst: tuple[Position, ...]


@dataclass(frozen=True)
class ChoicesPart:
    """Multiple choice on a set of questions."""

    source: str
    result: Comparison


@dataclass(frozen=True)
class JsonPart:
    """Answers that are JSON of the schema that was asked for, of `answers` each: free, and held to the schema."""

    answers: int
    valid_free: int
    valid_free_float: int
    valid_held: int


@dataclass(frozen=True)
class LoopsPart:
    """Answers of at most `max_tokens` that end in a loop (see toolchain.evaluation.loops)."""

    answers: int
    max_tokens: int
    looping: int
    looping_float: int


@dataclass(frozen=True)
class Gate:
    """The profile's fidelity gate: on the held-out text, mean KLD must not be above `max_kld`."""

    max_kld: float
    mean_kld: float
    passed: bool


@dataclass(frozen=True)
class Report:
    """Everything; None is what was not asked for, or, of the gate, what there is none for."""

    subject: Subject
    gate: Gate | None
    kld: KldPart | None
    choices: ChoicesPart | None
    json: JsonPart | None
    loops: LoopsPart | None
    tools: dict[str, str]


@dataclass(frozen=True)
class Row:
    """A line for people: what was measured, for the package and for the float checkpoint."""

    measure: str
    package: str
    float_checkpoint: str = ""
    note: str = ""


def kld_part(divergence: Divergence, text: str, tokenizer: Tokenizer) -> KldPart:
    """The figures of a comparison on `text`, and the positions where the two are farthest apart."""
    fidelity = divergence.fidelity(text)
    worst = np.argsort(-divergence.kld, kind="stable")[:_WORST]
    return KldPart(
        text=text,
        windows=fidelity.windows,
        tokens=fidelity.tokens,
        mean_kld=fidelity.mean_kld,
        median_kld=float(np.median(divergence.kld)),
        p99_kld=fidelity.p99_kld,
        top1_agreement=fidelity.top1_agreement,
        perplexity=fidelity.perplexity,
        perplexity_float=fidelity.perplexity_float,
        worst=tuple(_position(divergence, int(at), tokenizer) for at in worst),
    )


def _position(divergence: Divergence, at: int, tokenizer: Tokenizer) -> Position:
    offset, tokens = int(divergence.offsets[at]), [token for window in divergence.windows for token in window]
    following = int(divergence.following[at])
    return Position(
        kld=float(divergence.kld[at]),
        before=tokenizer.decode(tokens[at - min(offset, _CONTEXT_TOKENS) : at + 1]),
        came=_text(following, tokenizer) if following >= 0 else None,
        float_checkpoint=_likely(divergence.reference, at, tokenizer),
        package=_likely(divergence.model, at, tokenizer),
    )


def _likely(predictions: Predictions, at: int, tokenizer: Tokenizer) -> tuple[Likely, ...]:
    pairs = zip(predictions.tokens[at], predictions.probabilities[at], strict=True)
    return tuple(Likely(_text(int(token), tokenizer), float(probability)) for token, probability in pairs)


def _text(token: int, tokenizer: Tokenizer) -> str:
    """Of a special token, which has none, its number."""
    return tokenizer.decode([token]) or f"token {token}"


def verdict(report: Report) -> str:
    """One sentence on the fidelity gate."""
    gate = report.gate
    if gate is None:
        return f"No gate: {report.subject.precision} has none, or it was not measured on the held-out text."
    side = "Within" if gate.passed else "ABOVE"
    return f"{side} the profile's fidelity gate: mean KLD {gate.mean_kld:.4f}, at most {gate.max_kld:g} allowed."


def rows(report: Report) -> Sequence[Row]:
    """All that was measured, a line each."""
    return [
        *(_kld_rows(report.kld) if report.kld else ()),
        *(_choices_rows(report.choices) if report.choices else ()),
        *(_json_rows(report.json) if report.json else ()),
        *(_loops_rows(report.loops) if report.loops else ()),
    ]


def _kld_rows(part: KldPart) -> list[Row]:
    where = f"{part.text}: {part.windows} windows, {part.tokens} tokens"
    return [
        Row("KLD, mean", f"{part.mean_kld:.4f}", note=where),
        Row("KLD, median", f"{part.median_kld:.4f}"),
        Row("KLD, 99th percentile", f"{part.p99_kld:.4f}"),
        Row("same top token", f"{part.top1_agreement:.1%}"),
        Row("perplexity", f"{part.perplexity:.2f}", f"{part.perplexity_float:.2f}"),
    ]


def _choices_rows(part: ChoicesPart) -> list[Row]:
    result = part.result
    difference = f"{100 * result.difference.share:+.2f} points{_margin(result.difference)} to float"
    note = f"{part.source}: {result.questions} questions; {difference}, same choice {result.same:.1%}"
    return [Row("multiple choice", _percent(result.package), _percent(result.float_checkpoint), note)]


def _percent(score: Score) -> str:
    return f"{score.share:.1%}{_margin(score)}"


def _margin(score: Score) -> str:
    return "" if score.stderr is None else f" ±{100 * score.stderr:.1f}"


def _json_rows(part: JsonPart) -> list[Row]:
    free, of_float, held = (
        f"{count}/{part.answers}" for count in (part.valid_free, part.valid_free_float, part.valid_held)
    )
    return [
        Row("valid JSON, free", free, of_float, "answers that fit the schema that was asked for"),
        Row("valid JSON, held to the schema", held),
    ]


def _loops_rows(part: LoopsPart) -> list[Row]:
    note = f"answers of at most {part.max_tokens} tokens that end in a loop"
    return [Row("repetition loops", f"{part.looping}/{part.answers}", f"{part.looping_float}/{part.answers}", note)]
