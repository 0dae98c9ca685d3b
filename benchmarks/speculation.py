"""What guessing from a request's own text does: tokens/s with and without, for answers that copy and others.

    python benchmarks/speculation.py                    # the reference checkpoint at INT8
    python benchmarks/speculation.py --package DIR --rounds 10
    python benchmarks/speculation.py --replay           # its answers again, on Qwen2.5-0.5B's geometry at INT4

A board keeps none of the weights in its processor's caches, and a server much of a small model's. With `--replay` a
larger model computes, of random weights, and the sampler is shown what the reference checkpoint said: steps take the
larger model's time, guesses are right as often as they were.

Two engines take turns on one session, each in turn the first; greedy, so both should say the same, and the table says
how many answers do: with quantized weights the kernels for one token and for many round differently. Tokens/s count
from the first token of the first answer to the end of the last; medians over the rounds, of the ratio too, beside which
stands where its median lies with a confidence of 95 %.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from machine import machine
from packages import random_package, reference_package

from runtime.engine.engine import Engine
from runtime.engine.sequence import Delta, Event, Request
from runtime.engine.tokenizer import Tokenizer
from runtime.package import Package
from runtime.requests.chat import ChatMessage, ChatTemplate
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk, Logits, Session

ANSWER_TOKENS = 160
COPYING = [
    'Repeat this JSON with "status" changed to "ok", and nothing else:\n'
    '{"device": "pump-7", "site": "north", "status": "failed", "pressure_bar": 4.2, "temperature_c": 71.5, '
    '"firmware": "2.14.1", "tags": ["water", "primary"], "last_service": "2026-03-18", "operator": "K. Lindqvist"}',
    "Repeat this text with every price in euros instead of dollars:\n"
    "The small valve costs 12 dollars, the large valve costs 31 dollars, the gasket costs 2 dollars, the mounting "
    "plate costs 9 dollars, the pressure gauge costs 27 dollars, and the service kit costs 54 dollars.",
    "Repeat this Python function with the name changed to `mean`:\n"
    "def average(values: list[float]) -> float:\n    if not values:\n        raise ValueError('no values')\n"
    "    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n",
]
WRITING = [
    "Explain why ships float on water although they are made of steel.",
    "Describe a walk through an old harbour town in the morning.",
    "What should one think of before replacing the bearings of a pump?",
    "Tell me about the moon.",
]


def prompts(package: Package, tokenizer: Tokenizer, tasks: Sequence[str]) -> list[tuple[int, ...]]:
    template = ChatTemplate(package.chat_template)
    return [tuple(tokenizer.encode(template.render([ChatMessage("user", task)]))) for task in tasks]


def answer(engine: Engine, asked: Sequence[tuple[int, ...]]) -> tuple[list[list[int]], float]:
    """The answers to all at once, and the tokens/s of them together."""
    answers: list[list[int]] = [[] for _ in asked]
    times: list[float] = []

    def sink_of(own: list[int]):  # type: ignore[no-untyped-def]
        def sink(event: Event) -> None:
            if isinstance(event, Delta):
                own.extend(event.token_ids)
                times.append(time.perf_counter())

        return sink

    for prompt, own in zip(asked, answers, strict=True):
        engine.submit(Request(prompt, ANSWER_TOKENS), sink_of(own))
    while not engine.idle:
        engine.step()
    engine.step()  # clears the last slot
    return answers, sum(map(len, answers)) / (times[-1] - times[0])


class Replay:
    """`session` computes, and its logits are made to say `answers`, each after its prompt."""

    def __init__(self, session: OrtSession, answers: dict[tuple[int, ...], list[int]]) -> None:
        self.spec = session.spec
        self.copy, self.clear = session.copy, session.clear
        self._run = session.run
        self._texts = [(*prompt, *answer) for prompt, answer in answers.items()]
        self._said: list[tuple[int, ...]] = [()] * session.spec.slots

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        logits = self._run(chunks, adapter=adapter, deterministic=deterministic)
        at = 0
        for chunk in chunks:
            said = self._said[chunk.slot] = (*self._said[chunk.slot][: chunk.start], *chunk.tokens)
            for length in range(len(said) - chunk.logits + 1, len(said) + 1):
                follows = (
                    text[length] for text in self._texts if text[:length] == said[:length] and length < len(text)
                )
                logits[at, next(follows, 0)] = logits[at].max() + 1
                at += 1
        return logits


def measure(
    session: Session, tokenizer: Tokenizer, eos: frozenset[int], asked: Sequence[tuple[int, ...]], rounds: int
) -> tuple[float, float, list[float], float]:
    """Medians of tokens/s without and with guesses, their ratio by round, and the share of same answers."""
    speeds: dict[bool, list[float]] = {False: [], True: []}
    same: list[bool] = []
    for number in range(rounds + 1):
        said = {}
        for speculate in (False, True) if number % 2 else (True, False):
            said[speculate], speed = answer(engine_on(session, tokenizer, eos, speculate=speculate), asked)
            if number:  # the first is to warm up
                speeds[speculate].append(speed)
        same += [a == b for a, b in zip(said[False], said[True], strict=True)]
    ratios = [with_ / without for without, with_ in zip(speeds[False], speeds[True], strict=True)]
    return statistics.median(speeds[False]), statistics.median(speeds[True]), ratios, statistics.mean(same)


def engine_on(session: Session, tokenizer: Tokenizer, eos: frozenset[int], *, speculate: bool) -> Engine:
    return Engine(
        session,
        tokenizer,
        eos_token_ids=eos,
        queue_limit=session.spec.slots,
        prefill_chunk_tokens=64,
        kv_budget_tokens=session.spec.slots * session.spec.context_tokens,
        speculate=speculate,
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of what `values` are samples of lies, with a confidence of 95 %, by the ranks of a sign test."""
    ordered = sorted(values)
    rank = max(0, math.floor((len(ordered) - 1.96 * math.sqrt(len(ordered))) / 2))
    return ordered[rank], ordered[-1 - rank]


def replayed(package: Package, session: OrtSession, tasks: Sequence[str], threads: int) -> Replay:
    """A larger model that says what `session` says."""
    tokenizer = Tokenizer.from_file(package.tokenizer_file)
    said = {}
    for prompt in prompts(package, tokenizer, tasks):
        engine = engine_on(session, tokenizer, frozenset(package.build.model.eos_token_ids), speculate=False)
        [said[prompt]], _ = answer(engine, [prompt])
    graph = Package.open(random_package()).serving_graph
    return Replay(OrtSession(graph, slots=4, context_tokens=1024, threads=threads), said)


def begin(
    description: str | None, *, rounds: int, slots: int, precision: str = "int8", replay: bool = False
) -> tuple[argparse.Namespace, Package, OrtSession]:
    """The command line's options, the package that they name, and a session of it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = f"default: the reference checkpoint, {precision.upper()}"
    parser.add_argument("--package", type=Path, help=f"a package to measure; {default}")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    if replay:
        parser.add_argument("--replay", action="store_true", help="its answers again, on Qwen2.5-0.5B's geometry")
    options = parser.parse_args()
    package = Package.open(options.package or reference_package(precision))
    session = OrtSession(package.serving_graph, slots=slots, context_tokens=1024, threads=options.threads)
    return options, package, session


def main() -> None:
    options, package, session = begin(__doc__, rounds=15, slots=4, replay=True)
    tokenizer = Tokenizer.from_file(package.tokenizer_file)
    eos = frozenset(package.build.model.eos_token_ids)
    measured = replayed(package, session, COPYING + WRITING, options.threads) if options.replay else session
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.threads} threads, {options.rounds} rounds\n")
    print("| task | streams | tokens/s | with guesses | ratio | 95 % | same answers |")
    print("|---|---|---|---|---|---|---|")
    for name, tasks in (("copies", COPYING), ("writes", WRITING)):
        asked = prompts(package, tokenizer, tasks)
        cases = [(f"{name} {at}", [prompt]) for at, prompt in enumerate(asked, 1)]
        for label, each in [*cases, (f"{name}, all", asked)]:
            without, with_, ratios, same = measure(measured, tokenizer, eos, each, options.rounds)
            low, high = interval(ratios)
            print(
                f"| {label} | {len(each)} | {without:.1f} | {with_:.1f} | {statistics.median(ratios):.2f}"
                f" | {low:.2f} to {high:.2f} | {same:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
