"""The text of a turn's parts, from its tokens: reasoning, answer and calls, each as a client is to see it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .sequence import ToolCall
from .stop import StopMatcher
from .tokenizer import Tokenizer
from .turn import Part, TurnForm

# As the grammar of calls has them; see runtime.grammar.
_CALL = re.compile(r'\s*{"name": "([^"]*)", "arguments": (.*)}\s*', re.DOTALL)


@dataclass(frozen=True)
class Written:
    """More text of a turn."""

    answer: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()

    def __add__(self, more: Written) -> Written:
        return Written(self.answer + more.answer, self.reasoning + more.reasoning, self.calls + more.calls)


class TurnText:
    """Turns tokens into text. Stop strings are looked for in the answer.

    Models set their parts apart with blank lines: those are left out, in a turn that has parts.
    """

    def __init__(self, form: TurnForm, stops: tuple[str, ...], tokenizer: Tokenizer) -> None:
        self._marks = {Part.REASONING: form.reasoning, Part.CALL: form.calls}
        self._detokenizer = tokenizer.detokenizer()
        self._stops = StopMatcher(stops)
        self._reasoning = _Trimmed(hold_end=True)
        self._answer = _Trimmed(hold_end=form.calls is not None, drop_start=form.reasons_at_once)
        self._call = ""
        self._part = Part.REASONING if form.reasons_at_once else Part.ANSWER
        self.calls = 0
        """How many calls are complete."""
        self.stop: str | None = None
        """The stop string that was found; nothing may be pushed after it."""

    def push(self, token: int, part: Part) -> Written:
        """Takes the next token and the part that it belongs to."""
        written = Written()
        if part is not self._part:
            written = self._leave()
            self._part = part
        if self.stop is not None:
            return written
        marks = self._marks.get(part)
        if marks is None or token not in (marks.open, marks.close):
            return written + self._take(self._detokenizer.push(token))
        if part is Part.CALL and token == marks.close:
            return written + Written(calls=(self._complete_call(),))
        return written

    def flush(self) -> Written:
        """What was held back for an incomplete character or a stop string, which may turn out to be there."""
        written = self._take(self._detokenizer.flush())
        if self._part is not Part.ANSWER or self.stop is not None:
            return written
        rest, self.stop = self._stops.push(self._answer.flush())
        return written + Written(rest if self.stop is not None else rest + self._stops.flush())

    def _leave(self) -> Written:
        """What was held back of a part that is over, white space at its end aside."""
        written = self._take(self._detokenizer.flush())
        if self._part is Part.ANSWER and self.stop is None:
            written += Written(self._stops.flush())
        self._answer.drop_edges()
        return written

    def _take(self, text: str) -> Written:
        if self._part is Part.REASONING:
            return Written(reasoning=self._reasoning.push(text))
        if self._part is Part.CALL:
            self._call += text
            return Written()
        answer, self.stop = self._stops.push(self._answer.push(text))
        return Written(answer)

    def _complete_call(self) -> ToolCall:
        text, self._call = self._call + self._detokenizer.flush(), ""
        match = _CALL.fullmatch(text)
        assert match, "the grammar of calls was not kept"
        self.calls += 1
        return ToolCall(f"call_{self.calls}", match[1], match[2])


class _Trimmed:
    """Text without white space at its edges, as it comes."""

    def __init__(self, *, hold_end: bool, drop_start: bool = True) -> None:
        self._hold_end, self._drop_start = hold_end, drop_start
        self._held = ""

    def push(self, text: str) -> str:
        if self._drop_start:
            text = text.lstrip()
            self._drop_start = not text
        if not self._hold_end:
            return text
        text = self._held + text
        kept = text.rstrip()
        self._held = text[len(kept) :]
        return kept

    def drop_edges(self) -> None:
        """Another part begins: what is held was the end, and what comes next is a start."""
        self._held, self._drop_start = "", True

    def flush(self) -> str:
        """What was held back, where nothing more comes."""
        held, self._held = self._held, ""
        return held
