"""What `peers.py` asks of every engine, and what it makes of the times: pure functions.

A figure is kept as a list with a value a round, under a name like `decode@656`; what is shown is the median. Engines
are compared round by round: a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from traffic import Arrival, Served, together

PROMPTS = (41, 656, 2048)
STREAMS = (1, 2, 4, 8)
ALONE_TOKENS, STREAM_TOKENS = 64, 128
# Eight prompts of different lengths; each stream comes 6 tokens of the first after the one before.
RAGGED, STAGGER_TOKENS = (41, 152, 24, 97, 200, 63, 120, 80), 6
# While four streams run, a long prompt comes.
RUNNING, LONG_PROMPT, LONG_AFTER = 4, 2048, 40

Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Case:
    """One group of requests."""

    name: str
    arrivals: tuple[Arrival, ...]


def cases(vocabulary: int, *, quick: bool = False) -> list[Case]:
    """All that is measured in a round; with `quick`, a quarter of the tokens to say.

    Prompts are spread over the vocabulary: no two begin alike.
    """
    share = 4 if quick else 1
    stream_tokens = STREAM_TOKENS // share

    def prompt(length: int, seed: int) -> tuple[int, ...]:
        usable = vocabulary - 300
        return tuple(300 + (seed * 7919 + at * 104_729) % usable for at in range(length))

    alone = [Case(f"alone {n}", (Arrival(prompt(n, n), ALONE_TOKENS // share),)) for n in PROMPTS]
    ragged = [
        Arrival(prompt(length, 10 + number), stream_tokens, number * STAGGER_TOKENS // share)
        for number, length in enumerate(RAGGED)
    ]
    streams = [Case(f"streams {count}", tuple(ragged[:count])) for count in STREAMS]
    running = [Arrival(prompt(41, 20 + number), stream_tokens) for number in range(RUNNING)]
    long = Arrival(prompt(LONG_PROMPT, 30), 8, LONG_AFTER // share)
    return [*alone, *streams, Case("long prompt", (*running, long))]


def figures(case: Case, served: Sequence[Served]) -> Figures:
    """What one run of `case` says; gaps are lists with more than one value."""
    kind, _, number = case.name.partition(" ")
    if kind == "alone":
        [its] = served
        return {
            f"first@{number}": [its.first_s],
            f"prefill@{number}": [len(case.arrivals[0].prompt) / its.first_s],
            f"decode@{number}": [its.decode],
        }
    if kind == "streams":
        first, last, tokens = together(served)
        said = sum(len(its.token_s) for its in served)
        return {
            f"total x{number}": [said / max(its.token_s[-1] for its in served)],
            f"together x{number}": [tokens / (last - first)],
        }
    quiet, busy = gaps(served)
    return {"gaps quiet": quiet, "gaps busy": busy}


def gaps(served: Sequence[Served]) -> tuple[list[float], list[float]]:
    """Seconds between two tokens of a stream: before the last request came, and while its prompt was computed."""
    *running, long = served
    all_run_s = max(its.token_s[0] for its in running)
    quiet, busy = [], []
    for its in running:
        for before_s, after_s in itertools.pairwise(its.token_s):
            if all_run_s <= before_s and after_s <= long.arrived_s:
                quiet.append(after_s - before_s)
            elif long.arrived_s < after_s and before_s < long.token_s[0]:
                busy.append(after_s - before_s)
    return quiet, busy


def ratio(ours: Figures, theirs: Figures, name: str) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours[name], theirs[name], strict=True))


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def stall(its: Figures) -> float:
    """How much longer than the quiet median the gaps of running streams get while a long prompt is computed: p99."""
    return p99(its["gaps busy"]) / statistics.median(its["gaps quiet"])


@dataclass(frozen=True)
class Target:
    """What is wanted of a ratio of figures, or of a stall: at least or at most `bound`."""

    what: str
    bound: float
    value: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def wanted(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.bound:g}"


def targets(by_system: Mapping[str, Figures]) -> list[Target]:
    """All targets whose systems were measured."""
    prefill = ("prefill@41", "prefill@656", "prefill@2048")
    decode = ("decode@41", "decode@656")
    found = []
    for what, us, them, names, bound in (
        *(
            each
            for llama in ("llama-q4_0", "llama-q4_0-no-amx")
            for each in (
                ("decode, one stream", "ours", llama, decode, 1.15),
                ("prefill", "ours", llama, prefill, 1.15),
                ("8 streams", "ours", llama, ("together x8", "total x8"), 1.7),
            )
        ),
        ("decode, one stream", "ours", "genai", decode, 0.97),
        ("prefill", "ours", "genai", prefill, 1.0),
        ("gRPC decode", "grpc", "ours", decode, 0.97),
    ):
        if us in by_system and them in by_system:
            for name in names:
                value = ratio(by_system[us], by_system[them], name)
                found.append(Target(f"{what} ({name}) against {them}", bound, value))
    for system in ("ours", "grpc"):
        if system in by_system:
            what = f"{system}: p99 gap while a {LONG_PROMPT}-token prompt comes, against the quiet median"
            found.append(Target(what, 4.0, stall(by_system[system]), at_most=True))
    return found
