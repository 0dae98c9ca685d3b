"""Deterministic requests on real packages: the same tokens, to the last bit of their probabilities, in any company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.engine.engine import Engine
from runtime.engine.sequence import Delta, Event, Finished, Request, SamplingParams
from runtime.engine.tokenizer import Tokenizer
from runtime.package import Package
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk

pytestmark = pytest.mark.slow

TOKENS = 20
SYSTEM = "You watch the pumps of a water works. " * 20
ASKED = f"{SYSTEM}\nWrite the list again: red, green, blue, red, green, blue, red, green"
OTHERS = ("one two three four one two three four one two", "Why is the sky blue?", f"{SYSTEM}\nWhich pump failed?")


def engine(package: Package, tokenizer: Tokenizer) -> Engine:
    session = OrtSession(package.serving_graph, slots=11, context_tokens=512, threads=2)
    return Engine(
        session,
        tokenizer,
        eos_token_ids=frozenset(),
        queue_limit=16,
        prefill_chunk_tokens=64,
        kv_budget_tokens=11 * 512,
        max_running=9,
    )


def asked(tokenizer: Tokenizer, text: str, *, tokens: int = TOKENS, deterministic: bool = False) -> Request:
    sampling = SamplingParams(temperature=0.9, top_p=0.95, seed=11)
    prompt = tuple(tokenizer.encode(text))
    return Request(prompt, tokens, sampling, top_logprobs=2, scope=b"all", deterministic=deterministic)


def said(events: list[Event]) -> list[tuple[int, object]]:
    """Tokens, with their probabilities to the last bit."""
    assert isinstance(events[-1], Finished)
    deltas = [event for event in events if isinstance(event, Delta)]
    return [(token, told) for delta in deltas for token, told in zip(delta.token_ids, delta.logprobs, strict=True)]


def in_company(serving: Engine, tokenizer: Tokenizer, neighbours: int) -> list[tuple[int, object]]:
    """What the deterministic request says that comes into the midst of so many others, which come and go."""
    events: list[Event] = []
    for number in range(neighbours):
        if number == neighbours // 2:
            serving.submit(asked(tokenizer, ASKED, deterministic=True), events.append)
        for _ in range(2):
            serving.step()
        other = asked(tokenizer, OTHERS[number % len(OTHERS)], tokens=5 + 7 * number, deterministic=number == 3)
        serving.submit(other, lambda _: None)
    while not serving.idle:
        serving.step()
    return said(events)


@pytest.mark.parametrize(
    ("made", "variant", "companies"),
    [
        ("float_package", "generic-x86_64", (1, 4, 8)),
        ("int8_package", "generic-x86_64", range(1, 9)),
        ("int8_package", "generic-arm64", (1, 2, 5, 8)),  # its KV cache is int8
        ("int4_package", "generic-x86_64", range(1, 9)),
    ],
)
def test_a_deterministic_request_is_the_same_in_any_company(
    request: pytest.FixtureRequest, made: str, variant: str, companies: tuple[int, ...]
) -> None:
    """Also where the others guess tokens, and where it starts from the KV that they left."""
    path: Path = request.getfixturevalue(made)
    package = Package.open(path, variant, verify=False)
    tokenizer = Tokenizer.from_file(package.tokenizer_file)
    alone = said(_alone(package, tokenizer))
    assert len(alone) == TOKENS
    serving = engine(package, tokenizer)
    for neighbours in companies:
        assert in_company(serving, tokenizer, neighbours) == alone, f"{neighbours} neighbours"


def test_the_kv_of_a_prompt_is_the_same_however_it_is_cut(int4_package: Path, int8_package: Path) -> None:
    """To the last bit, whatever is computed beside its chunks: as long as each has several tokens."""
    for path, variant in (
        (int4_package, "generic-x86_64"),
        (int8_package, "generic-x86_64"),
        (int8_package, "generic-arm64"),
    ):
        package = Package.open(path, variant, verify=False)
        session = OrtSession(package.serving_graph, slots=3, context_tokens=512, threads=2)
        prompt = range(300, 420)
        for slot in (0, 2):
            session.run([Chunk(slot, prompt, 0, logits=0)])
        whole = session.read_kv(2, len(prompt))
        at = 0
        for number, tokens in enumerate((2, 3, 5, 4, 7, 64, 35)):
            beside = [Chunk(0, [500] * (1 + number % 3), 10 * number)] if number % 2 else []
            session.run([*beside, Chunk(1, prompt[at : at + tokens], at, logits=0)])
            at += tokens
        assert at == len(prompt)
        for name, kv in session.read_kv(1, at).items():
            assert np.array_equal(kv, whole[name]), f"{name} of {package.build.precision}, {variant}"


def _alone(package: Package, tokenizer: Tokenizer) -> list[Event]:
    events: list[Event] = []
    serving = engine(package, tokenizer)
    serving.submit(asked(tokenizer, ASKED, deterministic=True), events.append)
    while not serving.idle:
        serving.step()
    return events
