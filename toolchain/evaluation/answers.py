"""What a package answers greedily, through the engine that will serve it."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from runtime.engine.engine import Engine
from runtime.engine.sequence import Delta, Event, Failed, Finished, FinishReason, Request
from runtime.engine.structure import Grammar
from runtime.engine.tokenizer import Tokenizer
from runtime.engine.turn import TurnForm
from runtime.errors import PackageError, SessionError
from runtime.package import Package
from runtime.requests.chat import ChatMessage, ChatTemplate
from runtime.sessions.session import Session

OnAnswers = Callable[[int, int], None]
"""Called with the number of answers written and how many there will be."""


@dataclass(frozen=True)
class Answer:
    """Tokens without the one that ends them, their text, and whether the model ended it by itself."""

    tokens: tuple[int, ...]
    text: str
    finished: bool


class Prompter:
    """Makes prompts of questions, in the package's chat template; the plain question if it has none.

    Models that can be told not to reason are: what is counted is the answer.
    """

    def __init__(self, package: Package, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._template: ChatTemplate | None = None
        with suppress(PackageError):
            tokens = {name: package.special_token(name) for name in ("bos_token", "eos_token")}
            self._template = ChatTemplate(package.chat_template, **tokens)

    def __call__(self, question: str) -> list[int]:
        if self._template is None:
            return self._tokenizer.encode(question)
        thinking = False if self._template.has_thinking else None
        return self._tokenizer.encode(self._template.render([ChatMessage("user", question)], thinking=thinking))


def package_answers(
    package: Package,
    session: Session,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    grammars: Sequence[Grammar | None] | None = None,
    on_answers: OnAnswers = lambda done, total: None,
) -> list[Answer]:
    """A greedy answer of at most `max_tokens` to each prompt, held to its grammar if it has one.

    Raises SessionError if the engine gives one up.
    """
    build, spec = package.build, session.spec
    engine = Engine(
        session,
        tokenizer,
        eos_token_ids=frozenset(build.model.eos_token_ids),
        queue_limit=len(prompts),
        prefill_chunk_tokens=build.profile.runtime.prefill_chunk_tokens,
        kv_budget_tokens=spec.slots * spec.context_tokens,
        speculate=False,  # a guess decides which kernel rounds a token
    )
    events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()

    def sink_of(number: int) -> Callable[[Event], None]:
        return lambda event: events.put((number, event))

    held = grammars or [None] * len(prompts)
    room = spec.context_tokens - max(map(len, prompts))
    if room < 1:
        raise SessionError(f"a prompt of ours is longer than the model's context, {spec.context_tokens} tokens")
    requests = [
        Request(tuple(prompt), min(max_tokens, room), turn=TurnForm(answer=grammar))
        for prompt, grammar in zip(prompts, held, strict=True)
    ]
    engine.submit_all([(request, sink_of(number)) for number, request in enumerate(requests)])
    engine.start()
    try:
        return _collect(events, len(prompts), frozenset(build.model.eos_token_ids), on_answers)
    finally:
        engine.stop()


def _collect(
    events: queue.SimpleQueue[tuple[int, Event]], count: int, ends: frozenset[int], on_answers: OnAnswers
) -> list[Answer]:
    deltas: list[list[Delta]] = [[] for _ in range(count)]
    ended: dict[int, FinishReason] = {}
    while len(ended) < count:
        number, event = events.get()
        if isinstance(event, Failed):
            raise SessionError(event.message)
        if isinstance(event, Finished):
            ended[number] = event.reason
            on_answers(len(ended), count)
        else:
            deltas[number].append(event)
    answers = []
    for number, its in enumerate(deltas):
        whole = Delta.join(its)
        tokens = tuple(token for token in whole.token_ids if token not in ends)
        answers.append(Answer(tokens, whole.text, ended[number] is not FinishReason.LENGTH))
    return answers
