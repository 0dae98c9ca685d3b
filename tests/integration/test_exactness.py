"""The serving graph against transformers in float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from integration.packages import build_package, small_checkpoint
from integration.reference import assert_rows_share_a_run, expected_logits
from transformers import AutoModelForCausalLM, AutoTokenizer

from runtime.engine.engine import Engine
from runtime.engine.sequence import Delta, Event, Request
from runtime.engine.tokenizer import Tokenizer
from runtime.package import Package
from runtime.requests.chat import ChatMessage, ChatTemplate
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk
from toolchain.checkpoints.sources import resolve

pytestmark = pytest.mark.slow

QUESTIONS = [
    "What is the capital of France?",
    "Explain why the sky is blue.",
    "Write a haiku about the sea.",
    "List three uses of copper.",
    "How many days has a leap year, and why?",
]
TEXTS = [
    "the red valve opens first, the blue valve opens second, the green valve opens third, and then all of them close.",
    '{"device": "pump-7", "status": "failed", "pressure_bar": 4.2, "firmware": "2.14.1", "tags": ["water", "primary"]}',
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen",
]
TOKENS = 64


def open_session(graph: Path, slots: int = 1) -> OrtSession:
    return OrtSession(graph, slots=slots, context_tokens=512, threads=2)


def greedy(session: OrtSession, slot: int, prompt: list[int], eos: int) -> list[int]:
    output = [int(session.run([Chunk(slot, prompt, 0)])[0].argmax())]
    while len(output) < TOKENS and output[-1] != eos:
        logits = session.run([Chunk(slot, output[-1:], len(prompt) + len(output) - 1)])
        output.append(int(logits[0].argmax()))
    return output


@pytest.fixture(scope="module")
def reference(build_cache: Path) -> Path:
    """The reference checkpoint's folder, as a build left it."""
    return resolve("reference", revision=None, cache=build_cache / "cache").folder


def test_greedy_tokens_of_the_float_package_are_those_of_transformers(float_package: Path, reference: Path) -> None:
    """Five prompts, 64 tokens each, or up to the end of the turn.

    Greedy decoding takes the most likely token after what is there, so one pass over prompt and answer tells each of
    the tokens that transformers would take.
    """
    tokenizer = AutoTokenizer.from_pretrained(reference)
    model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32).eval()
    session = open_session(Package.open(float_package).serving_graph)
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompt = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
        answer = greedy(session, 0, prompt, tokenizer.eos_token_id)
        assert len(answer) == TOKENS or answer[-1] == tokenizer.eos_token_id
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0]
        assert answer == logits[len(prompt) - 1 : -1].argmax(-1).tolist()


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def small_graph(request: pytest.FixtureRequest, build_cache: Path) -> tuple[Path, Path]:
    """A random checkpoint of real shape, with qkv bias or with q/k norm, and its serving graph at float32.

    With a cache of its own: the larger builds, which it need not wait for, have the other.
    """
    cache = build_cache / "small"
    checkpoint = small_checkpoint(request.param, cache)
    package = build_package("float32", "generic-x86_64", cache=cache, source=str(checkpoint))
    return checkpoint, Package.open(package).serving_graph


def test_bias_and_norm_survive_the_way_to_the_serving_graph(small_graph: tuple[Path, Path]) -> None:
    """Logits of every position within 1e-3 of transformers', in one chunk, in ragged chunks, and decoding."""
    checkpoint, graph = small_graph
    tokens = np.random.default_rng(0).integers(3, 300, 40).tolist()
    expected = expected_logits(checkpoint, tokens)
    assert np.abs(expected).max() > 0.1, "a model of zeros would pass any comparison"
    session = open_session(graph, slots=3)
    np.testing.assert_allclose(session.run([Chunk(0, tokens, 0, logits=40)]), expected, atol=1e-3)
    for start, end in ((0, 7), (7, 8), (8, 30)):
        chunk = session.run([Chunk(1, tokens[start:end], start, logits=end - start)])
        np.testing.assert_allclose(chunk, expected[start:end], atol=1e-3)
    for position in range(30, 40):
        logits = session.run([Chunk(1, [tokens[position]], position)])
        np.testing.assert_allclose(logits[0], expected[position], atol=1e-3)


@pytest.mark.parametrize("deterministic", [False, True])
def test_rows_share_a_run_whatever_each_computes(small_graph: tuple[Path, Path], deterministic: bool) -> None:
    """A next token, several at once, and parts of prompts whose logits nobody wants, with an idle slot between and
    after other tokens had been computed in their place: the logits of each are those it has alone."""
    checkpoint, graph = small_graph
    assert_rows_share_a_run(open_session(graph, slots=5), checkpoint, deterministic=deterministic)


def test_a_full_row_goes_on_beside_a_prompt_as_long_as_the_context(small_graph: tuple[Path, Path]) -> None:
    """The kernel pads the row's one token to the width of the prompt, which ends behind the context."""
    checkpoint, graph = small_graph
    rng = np.random.default_rng(3)
    full, prompt = rng.integers(3, 300, 64).tolist(), rng.integers(3, 300, 64).tolist()
    session = OrtSession(graph, slots=2, context_tokens=64, threads=2)
    session.run([Chunk(0, full[:-1], 0)])
    logits = session.run([Chunk(0, full[-1:], 63), Chunk(1, prompt, 0)])
    expected = [expected_logits(checkpoint, tokens)[-1] for tokens in (full, prompt)]
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_a_prompt_of_one_token_is_computed_exactly(small_graph: tuple[Path, Path]) -> None:
    """A deterministic run has room for two tokens of a row, also where there is but one."""
    checkpoint, graph = small_graph
    logits = open_session(graph).run([Chunk(0, [7], 0)], deterministic=True)
    np.testing.assert_allclose(logits, expected_logits(checkpoint, [7]), atol=1e-3)


def test_rows_that_are_copied_and_cut_go_on_where_they_were(small_graph: tuple[Path, Path]) -> None:
    """The next logits are those without it, and of another row's memory nothing is lost."""
    _, graph = small_graph
    rng = np.random.default_rng(2)
    long, short = rng.integers(3, 300, 40).tolist(), rng.integers(3, 300, 17).tolist()
    session = open_session(graph, slots=3)
    for slot, tokens in ((0, short), (1, long)):
        session.run([Chunk(slot, tokens[:-1], 0)])
    ends = [Chunk(0, short[-1:], 16), Chunk(1, long[-1:], 39)]
    as_they_were = session.run(ends).copy()
    session.copy(1, 2, 30)
    session.clear(1, keep=39)
    session.run([Chunk(2, long[30:39], 30)])
    for chunk, expected in zip((*ends, Chunk(2, long[-1:], 39)), as_they_were[[0, 1, 1]], strict=True):
        assert np.abs(session.run([chunk]) - expected).max() < 1e-5


def test_guessed_tokens_change_nothing(float_package: Path) -> None:
    """Answers that repeat their question, all at once and one by one: token for token those of plain decoding."""
    package = Package.open(float_package)
    tokenizer, template = Tokenizer.from_file(package.tokenizer_file), ChatTemplate(package.chat_template)
    asked = [tuple(tokenizer.encode(template.render([ChatMessage("user", f"Repeat this: {text}")]))) for text in TEXTS]
    session = open_session(package.serving_graph, slots=len(asked))

    def answers(groups: list[list[tuple[int, ...]]], *, speculate: bool) -> tuple[list[list[int]], int]:
        engine = Engine(
            session,
            tokenizer,
            eos_token_ids=frozenset(package.build.model.eos_token_ids),
            queue_limit=len(asked),
            prefill_chunk_tokens=64,
            kv_budget_tokens=2048,
            speculate=speculate,
        )
        said: list[list[int]] = []
        for group in groups:
            for prompt in group:
                said.append([])
                engine.submit(Request(prompt, TOKENS), partial(_keep_tokens, said[-1]))
            while not engine.idle:
                engine.step()
        engine.step()
        return said, engine.stats().right_guesses_total

    plain, guessed = answers([asked], speculate=False)
    assert guessed == 0
    for groups in ([asked], [[prompt] for prompt in asked]):
        said, guessed = answers(groups, speculate=True)
        assert said == plain
        assert guessed > TOKENS // 2


def _keep_tokens(said: list[int], event: Event) -> None:
    said.extend(event.token_ids if isinstance(event, Delta) else ())
