"""What goes back in the OpenAI API's words: events of completions as chunks, or as one whole answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from edgeqwen.v1 import generation_pb2 as pb

Json = dict[str, Any]
Spell = Callable[[int], str]
"""The text of a token."""

_LEAST = -9999.0  # JSON has no infinity

_REASONS = {
    pb.Finished.REASON_EOS: "stop",
    pb.Finished.REASON_STOP: "stop",
    pb.Finished.REASON_LENGTH: "length",
    pb.Finished.REASON_TOOL_CALLS: "tool_calls",
}


class Form(Protocol):
    """How one kind of request is answered. The methods give a `choice` each, without its place and its end."""

    prefix: str
    whole: str
    chunk: str

    def opening(self) -> Json | None:
        """What a stream begins with; None for nothing."""

    def piece(self, delta: pb.Delta) -> Json:
        """A chunk's."""

    def message(self, delta: pb.Delta) -> Json:
        """A whole answer's."""


class ChatForm:
    """`chat.completion`."""

    prefix = "chatcmpl"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    def __init__(self, spell: Spell, *, logprobs: bool) -> None:
        self._spell, self._logprobs = spell, logprobs
        self._calls: Counter[int] = Counter()

    def opening(self) -> Json | None:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def piece(self, delta: pb.Delta) -> Json:
        said: Json = {}
        if delta.text:
            said["content"] = delta.text
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        if delta.tool_calls:
            said["tool_calls"] = []
        for call in delta.tool_calls:
            said["tool_calls"].append({"index": self._calls[delta.index], **_call(call)})
            self._calls[delta.index] += 1
        return {"delta": said, "logprobs": self._told(delta)}

    def message(self, delta: pb.Delta) -> Json:
        said: Json = {"role": "assistant", "content": delta.text, "refusal": None}
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        if delta.tool_calls:
            said |= {"content": delta.text or None, "tool_calls": list(map(_call, delta.tool_calls))}
        return {"message": said, "logprobs": self._told(delta)}

    def _told(self, delta: pb.Delta) -> Json | None:
        if not self._logprobs:
            return None
        pairs = zip(delta.token_ids, delta.logprobs, strict=True)
        return {"content": [self._token(token, its) for token, its in pairs], "refusal": None}

    def _token(self, token: int, its: pb.TokenLogprobs) -> Json:
        top = [self._spelled(each.token_id, each.logprob) for each in its.top]
        return self._spelled(token, its.logprob) | {"top_logprobs": top}

    def _spelled(self, token: int, logprob: float) -> Json:
        text = self._spell(token)
        whole = "\N{REPLACEMENT CHARACTER}" not in text  # else it is a part of a character, whose bytes nobody knows
        return {"token": text, "logprob": max(logprob, _LEAST), "bytes": list(text.encode()) if whole else None}


class CompletionForm:
    """`text_completion`."""

    prefix = "cmpl"
    whole = "text_completion"
    chunk = "text_completion"

    def __init__(self, spell: Spell, *, logprobs: bool) -> None:
        self._spell, self._logprobs = spell, logprobs
        self._lengths: Counter[int] = Counter()

    def opening(self) -> Json | None:
        return None

    def piece(self, delta: pb.Delta) -> Json:
        return {"text": delta.text, "logprobs": self._told(delta)}

    def message(self, delta: pb.Delta) -> Json:
        return self.piece(delta)

    def _told(self, delta: pb.Delta) -> Json | None:
        if not self._logprobs:
            return None
        tokens, offsets = list(map(self._spell, delta.token_ids)), []
        for token in tokens:
            offsets.append(self._lengths[delta.index])
            self._lengths[delta.index] += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [max(its.logprob, _LEAST) for its in delta.logprobs],
            "top_logprobs": [
                {self._spell(each.token_id): max(each.logprob, _LEAST) for each in its.top} for its in delta.logprobs
            ],
            "text_offset": offsets,
        }

    def _top(self, its: pb.TokenLogprobs) -> Json:
        return {self._spell(each.token_id): max(each.logprob, _LEAST) for each in its.top}


class Writer:
    """Turns the events of one request into chunks, or one answer.

    Args:
        created_s: Unix time.
    """

    def __init__(self, form: Form, started: pb.Started, *, created_s: float | None = None) -> None:
        self._form = form
        self._head: Json = {
            "id": f"{form.prefix}-{started.request_id}",
            "created": int(time.time() if created_s is None else created_s),
            "model": started.model,
        }
        self._deltas: dict[int, list[pb.Delta]] = {}
        self._ends: dict[int, pb.Finished] = {}

    def openings(self, count: int) -> Iterable[Json]:
        """The first chunks of a stream of so many choices."""
        if (opening := self._form.opening()) is not None:
            for index in range(count):
                yield self._chunk({"index": index, **opening, "finish_reason": None})

    def chunk(self, event: pb.GenerateResponse) -> Json | None:
        """What a stream says of an event; None for nothing."""
        if event.HasField("finished"):
            self.add(event)
            last = self._form.piece(pb.Delta(index=event.finished.index)) | {"logprobs": None}
            return self._chunk(
                {"index": event.finished.index, **last, "finish_reason": _REASONS[event.finished.reason]}
            )
        delta = event.delta
        if not (delta.text or delta.reasoning or delta.tool_calls or delta.logprobs):
            return None
        return self._chunk({"index": delta.index, **self._form.piece(delta), "finish_reason": None})

    def usage_chunk(self) -> Json:
        """The last chunk, for who asks for it."""
        return self._head | {"object": self._form.chunk, "choices": [], "usage": self._usage()}

    def add(self, event: pb.GenerateResponse) -> None:
        """An event of a whole answer."""
        if event.HasField("finished"):
            self._ends[event.finished.index] = event.finished
        else:
            self._deltas.setdefault(event.delta.index, []).append(event.delta)

    def answer(self) -> Json:
        """The whole answer, when every choice has ended."""
        choices = [
            {
                "index": index,
                **self._form.message(_joined(index, self._deltas.get(index, []))),
                "finish_reason": _REASONS[end.reason],
            }
            for index, end in sorted(self._ends.items())
        ]
        return self._head | {"object": self._form.whole, "choices": choices, "usage": self._usage()}

    def _chunk(self, choice: Json) -> Json:
        return self._head | {"object": self._form.chunk, "choices": [choice]}

    def _usage(self) -> Json:
        usages = [end.usage for end in self._ends.values()]
        prompt, completion = usages[0].prompt_tokens, sum(each.completion_tokens for each in usages)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": min(each.cached_prompt_tokens for each in usages)},
        }


def _joined(index: int, deltas: list[pb.Delta]) -> pb.Delta:
    joined = pb.Delta(
        index=index,
        text="".join(each.text for each in deltas),
        reasoning="".join(each.reasoning for each in deltas),
    )
    for each in deltas:
        joined.token_ids.extend(each.token_ids)
        joined.logprobs.extend(each.logprobs)
        joined.tool_calls.extend(each.tool_calls)
    return joined


def _call(call: pb.ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
