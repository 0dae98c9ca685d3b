"""Calibration text without a dataset: the model writes it.

GPTQ needs activations like those the model meets in use. The model's own sampled answers to varied prompts, and text it
writes from bare openings, come from its own distribution (the data-free calibration of LLM-QAT, arXiv:2305.17888).

transformers takes seconds to import, and a build from its cache needs none of it: it is imported where it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from runtime.engine.sampler import Sampler
from runtime.engine.sequence import SamplingParams
from runtime.errors import SourceError
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk, Session

from .cache import whole

if TYPE_CHECKING:
    from transformers import AutoTokenizer

SAMPLES = 64
TOKENS = 192
ROWS = 16
CONTEXT_TOKENS = 384
TEMPERATURE = 1.0
SEED = 20_250_101

OnTokens = Callable[[int, int], None]
"""Called with the number of tokens written and how many there will be."""


def calibration_key() -> str:
    """SHA-256 of all that decides what `write_calibration` writes, the model aside."""
    recipe = [_prompts(), SAMPLES, TOKENS, ROWS, TEMPERATURE, SEED, version("onnxruntime")]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()


def open_writer(graph: Path, *, threads: int) -> Session:
    """The serving graph in a session for `write_calibration`."""
    return OrtSession(graph, slots=ROWS, context_tokens=CONTEXT_TOKENS, threads=threads)


def write_calibration(
    session: Session, checkpoint: Path, out: Path, *, on_tokens: OnTokens = lambda done, total: None
) -> None:
    """Writes JSON lines with a `text` each to `out`: SAMPLES texts of TOKENS tokens after their prompt.

    The same model on the same kind of machine writes the same text.

    Args:
        session: the model, from `open_writer`.
        checkpoint: the folder with its tokenizer and chat template.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = [tokenizer.encode(opening, add_special_tokens=False) for opening in _openings(tokenizer)]
    for at in range(0, len(texts), ROWS):
        for written in _go_on(session, texts[at : at + ROWS], first_seed=SEED + at):
            on_tokens(at * TOKENS + written, len(texts) * TOKENS)
    _write(out, [str(tokenizer.decode(tokens)) for tokens in texts])


def _go_on(session: Session, rows: Sequence[list[int]], *, first_seed: int) -> Iterator[int]:
    """Samples TOKENS more tokens to each of `rows`, all at once; yields how many there are after each step."""
    sampling = [SamplingParams(temperature=TEMPERATURE, seed=first_seed + slot) for slot in range(len(rows))]
    samplers = [Sampler(params, [], session.spec.vocab_size) for params in sampling]
    for slot, (row, sampler) in enumerate(zip(rows, samplers, strict=True)):
        row.append(sampler.pick(session.run([Chunk(slot, row, 0)])[0]))
    for step in range(1, TOKENS):
        yield step * len(rows)
        logits = session.run([Chunk(slot, row[-1:], len(row) - 1) for slot, row in enumerate(rows)])
        for row, sampler, its in zip(rows, samplers, logits, strict=True):
            row.append(sampler.pick(its))
    for slot in range(len(rows)):
        session.clear(slot)
    yield TOKENS * len(rows)


def read_calibration(file: Path, out: Path) -> None:
    """Copies a user's text to `out` as JSON lines: a .jsonl file with `text` in each line, or plain text.

    Raises SourceError if there is no text in it.
    """
    try:
        content = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            texts = [str(json.loads(line)["text"]) for line in content.split("\n") if line.strip()]
        else:
            texts = [part for part in content.split("\n\n") if part.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{file} is not calibration text: {error!r}") from error
    if not texts:
        raise SourceError(f"{file} holds no calibration text")
    _write(out, texts)


def questions_to_write() -> list[str]:
    """The questions of ours that a model is asked to write something about."""
    return _prompts()["questions"]


def _prompts() -> dict[str, list[str]]:
    prompts: dict[str, list[str]] = yaml.safe_load(
        resources.files("toolchain").joinpath("data", "prompts.yaml").read_text(encoding="utf-8")
    )
    return prompts


def _openings(tokenizer: AutoTokenizer) -> list[str]:
    """What the model goes on from: half conversations, half bare openings, SAMPLES in all."""
    prompts = _prompts()
    openings = [prompts["openings"][at % len(prompts["openings"])] for at in range(SAMPLES // 2)]
    questions = [prompts["questions"][at % len(prompts["questions"])] for at in range(SAMPLES - len(openings))]
    if tokenizer.chat_template is None:
        return [*openings, *questions]
    return [*openings, *(_chat(tokenizer, question) for question in questions)]


def _chat(tokenizer: AutoTokenizer, question: str) -> str:
    message = {"role": "user", "content": question}
    return str(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True))


def _write(out: Path, texts: Sequence[str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    with whole(out) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
