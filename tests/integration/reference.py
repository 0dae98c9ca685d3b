"""What transformers computes in float32, and what every session of many rows must compute like it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from runtime.sessions.session import Chunk, Logits, Session


def expected_logits(checkpoint: Path, tokens: list[int]) -> Logits:
    """float32 `[len(tokens), vocab]`."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: Logits = model(torch.tensor([tokens])).logits[0].numpy()
    return logits


def assert_rows_share_a_run(session: Session, checkpoint: Path, *, longer: int = 0, deterministic: bool) -> None:
    """Runs a next token, several at once, and parts of prompts whose logits nobody wants, with an idle slot between and
    after other tokens had been computed in their place: the logits of each are those it has alone.

    Args:
        session: of 5 slots.
        longer: tokens that two of the rows have more, so that they reach into a cache's further blocks.
    """
    rng = np.random.default_rng(1)
    lengths = ((0, 9), (1, 24 + longer), (3, 31 + longer), (4, 17))
    rows = {slot: rng.integers(3, 300, length).tolist() for slot, length in lengths}
    for slot, tokens in rows.items():
        session.run([Chunk(slot, tokens[:8], 0, logits=0)])
        session.run([Chunk(slot, [7, 7, 7], 8, logits=3)])
    one, other = 20 + longer, 25 + longer
    session.run([Chunk(1, rows[1][8:one], 8, logits=0), Chunk(3, rows[3][8:other], 8, logits=0)])
    chunks = [
        Chunk(0, rows[0][8:], 8),
        Chunk(1, rows[1][one:], one, logits=4),
        Chunk(3, rows[3][other : other + 5], other, logits=0),
        Chunk(4, rows[4][8:], 8, logits=2),
    ]
    got = session.run(chunks, deterministic=deterministic)
    expected = [expected_logits(checkpoint, rows[chunk.slot])[-chunk.logits :] for chunk in chunks if chunk.logits]
    np.testing.assert_allclose(got, np.concatenate(expected), atol=1e-3)
    last = session.run([Chunk(3, rows[3][other + 5 :], other + 5)], deterministic=deterministic)
    np.testing.assert_allclose(last[0], expected_logits(checkpoint, rows[3])[-1], atol=1e-3)
