"""What a package is evaluated on: text, questions, and how much of either.

The command's help needs it, so what takes time to import is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runtime.errors import Fault, MaterialError

from .heldout import HELD_OUT, held_out_text

if TYPE_CHECKING:
    from .choices import Question

Part = Literal["kld", "choices", "json", "loops"]
PARTS: tuple[Part, ...] = ("kld", "choices", "json", "loops")


@dataclass(frozen=True)
class Material:
    """What to evaluate on.

    Args:
        parts: those to measure.
        text: called `text_name`; its first `windows` windows.
        questions: called `questions_name`.
        answer_tokens: the most that an answer has which is looked through for loops.
    """

    parts: tuple[Part, ...]
    text: str
    text_name: str
    windows: int
    questions: Sequence[Question]
    questions_name: str
    answer_tokens: int


def read_material(
    *,
    parts: tuple[Part, ...],
    text: Path | None,
    windows: int,
    choices: Path | None,
    limit: int | None,
    answer_tokens: int,
) -> Material:
    """From files, or ours where there is none. Raises MaterialError if one of them cannot be used."""
    from .choices import OWN_QUESTIONS, read_questions

    return Material(
        parts=parts,
        text=_read(text) if text else held_out_text(),
        text_name=text.name if text else HELD_OUT,
        windows=windows,
        questions=read_questions(choices, limit),
        questions_name=choices.name if choices else OWN_QUESTIONS,
        answer_tokens=answer_tokens,
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MaterialError([Fault("", f"cannot be read: {error}")], str(file)) from error
