"""Calibration text without a dataset: the float model writes it.

GPTQ needs activations like those the model meets in use. The model's own sampled answers to varied prompts, and text it
writes from bare openings, come from its own distribution (the data-free calibration of LLM-QAT, arXiv:2305.17888).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from runtime.errors import SourceError

SAMPLES = 64
TOKENS = 320
TEMPERATURE = 1.0
SEED = 20_250_101
_BATCH = 32

OnTokens = Callable[[int, int], None]
"""Called with the number of tokens written and how many there will be."""


def calibration_key() -> str:
    """SHA-256 of all that decides what `write_calibration` writes, the checkpoint aside."""
    recipe = [_prompts(), SAMPLES, TOKENS, TEMPERATURE, SEED, torch.__version__]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()


def write_calibration(checkpoint: Path, out: Path, *, on_tokens: OnTokens = lambda done, total: None) -> None:
    """Writes JSON lines with a `text` each to `out`: SAMPLES texts of up to TOKENS tokens after their prompt.

    The same checkpoint on the same kind of machine writes the same text.
    """
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    openings = _openings(tokenizer)
    texts: list[str] = []
    torch.manual_seed(SEED)
    for at in range(0, len(openings), _BATCH):
        batch = openings[at : at + _BATCH]
        done = at * TOKENS

        def on_step(step: int, done: int = done, size: int = len(batch)) -> None:
            on_tokens(done + step * size, len(openings) * TOKENS)

        texts += _sample(model, tokenizer, batch, on_step)
    _write(out, texts)


def read_calibration(file: Path, out: Path) -> None:
    """Copies a user's text to `out` as JSON lines: a .jsonl file with `text` in each line, or plain text.

    Raises SourceError if there is no text in it.
    """
    try:
        content = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            texts = [str(json.loads(line)["text"]) for line in content.splitlines() if line.strip()]
        else:
            texts = [part for part in content.split("\n\n") if part.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{file} is not calibration text: {error!r}") from error
    if not texts:
        raise SourceError(f"{file} holds no calibration text")
    _write(out, texts)


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


def _sample(
    model: AutoModelForCausalLM,
    tokenizer: AutoTokenizer,
    openings: Sequence[str],
    on_step: Callable[[int], None],
) -> list[str]:
    inputs = tokenizer(list(openings), return_tensors="pt", padding=True, add_special_tokens=False)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, latest = None, ids
    for step in range(TOKENS):
        with torch.no_grad():
            output = model(
                input_ids=latest,
                attention_mask=mask,
                position_ids=positions[:, -latest.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        cache = output.past_key_values
        probabilities = torch.softmax(output.logits[:, -1] / TEMPERATURE, dim=-1)
        latest = torch.multinomial(probabilities, 1)
        ids = torch.cat([ids, latest], 1)
        mask = torch.cat([mask, torch.ones_like(latest)], 1)
        positions = torch.cat([positions, positions[:, -1:] + 1], 1)
        on_step(step + 1)
    return [str(tokenizer.decode(row[kept.bool()])) for row, kept in zip(ids, mask, strict=True)]


def _write(out: Path, texts: Sequence[str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".tmp")
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    unfinished.replace(out)
