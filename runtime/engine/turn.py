"""An assistant's turn, token by token: it may reason, then it answers and may call tools; what may come next in each.

Models mark the parts with tokens that stand for nothing else (`<think>`, `</think>`, `<tool_call>`, `</tool_call>`). A
grammar holds where it belongs: that of the answer once the reasoning is closed, that of calls between their marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from .structure import Grammar, Matcher


class Part(Enum):
    """Of a turn. A mark belongs to the part that it opens or closes."""

    REASONING = auto()
    ANSWER = auto()
    CALL = auto()


@dataclass(frozen=True)
class Marks:
    """The tokens that open and close a part."""

    open: int
    close: int


@dataclass(frozen=True)
class TurnForm:
    """What a turn may consist of. By default it is one answer in which no token is a mark."""

    reasoning: Marks | None = None
    reasons_at_once: bool = False
    """Whether the prompt opens the reasoning; if not, the turn's first token may."""
    reasoning_tokens: int | None = None
    """The most tokens of reasoning; None is no bound."""
    break_off: tuple[int, ...] = ()
    """What is written before the closing mark where reasoning reaches that bound."""
    before_answer: tuple[int, ...] = ()
    """What models write between reasoning and answer."""
    calls: Marks | None = None
    call: Grammar | None = None
    """What follows the opening mark of a call, with the closing one."""
    must_call: bool = False
    answer: Grammar | None = None
    """What the answer must look like."""


class Turn:
    """How far one turn has come. A `Matcher` over all its parts, in which most tokens are free."""

    def __init__(self, form: TurnForm) -> None:
        self._form = form
        self._matcher: Matcher | None = None
        self._written: tuple[int, ...] = ()  # what comes next whatever the model says
        self._tokens = 0
        self._reasoned = 0
        self.complete = False
        """Whether nothing more may come."""
        self.part = Part.ANSWER
        if form.reasons_at_once:
            self._begin_reasoning()
        else:
            self._begin_answer()

    @property
    def forced(self) -> tuple[int, ...]:
        """The tokens that must come next, whatever the model says."""
        return self._written or (self._matcher.forced if self._matcher else ())

    @property
    def may_end(self) -> bool:
        """Whether the model may end its turn here, as far as no grammar says otherwise."""
        return self.part is not Part.REASONING or not self._held

    def allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens may come next, bool `[vocab]`; None allows all."""
        return self._matcher.allowed() if self._matcher else None

    def accept(self, token: int) -> Part:
        """Takes the next token; returns the part that it belongs to. Raises GrammarError as a `Matcher` does."""
        self._tokens += 1
        if self._written:
            self._written = self._written[1:]
        elif self._matcher:
            self._matcher.accept(token)
        form, part = self._form, self.part
        if part is Part.REASONING:
            self._reason(token)
        elif part is Part.CALL:
            if self._matcher and self._matcher.complete:
                self.part, self._matcher = Part.ANSWER, None
        elif self._matcher:
            self.complete = self._matcher.complete
        elif form.reasoning and token == form.reasoning.open and self._tokens == 1:
            self._begin_reasoning()
            return Part.REASONING
        elif form.calls and token == form.calls.open:
            self.part, self._matcher = Part.CALL, form.call.matcher() if form.call else None
            return Part.CALL
        return part

    @property
    def _held(self) -> bool:
        """Whether the answer has to be something in particular."""
        return self._form.answer is not None or self._form.must_call

    def _begin_reasoning(self) -> None:
        self.part = Part.REASONING
        self._bound()

    def _reason(self, token: int) -> None:
        assert self._form.reasoning
        if token == self._form.reasoning.close:
            rest = self._written
            self._begin_answer()
            self._written = (rest or (self._form.before_answer if self._held else ())) + self._written
        else:
            self._reasoned += 1
            self._bound()

    def _bound(self) -> None:
        """Closes reasoning that is as long as it may be."""
        form = self._form
        if not self._written and form.reasoning_tokens is not None and self._reasoned >= form.reasoning_tokens:
            assert form.reasoning
            self._written = (*form.break_off, form.reasoning.close, *form.before_answer)

    def _begin_answer(self) -> None:
        self.part = Part.ANSWER
        self._matcher = self._form.answer.matcher() if self._form.answer else None
        self._written = (self._form.calls.open,) if self._form.must_call and self._form.calls else ()
