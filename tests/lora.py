"""LoRA adapters of tiny checkpoints, trained for a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

STEPS = 12


def train_adapter(
    checkpoint: Path, folder: Path, text: Sequence[int], *, targets: Sequence[str], rank: int = 4, **settings: object
) -> Path:
    """Writes an adapter to `folder` that has learned to say the tokens of `text` over and over."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), task_type="CAUSAL_LM", **settings)
    tuned = get_peft_model(model, config)
    batch = torch.tensor([list(text) * 4])
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        tuned(batch, labels=batch).loss.backward()
        optimizer.step()
    tuned.save_pretrained(str(folder))
    return folder


def reference_logits(checkpoint: Path, adapter: Path | None, tokens: Sequence[int]) -> torch.Tensor:
    """What transformers, with PEFT if there is an adapter, gives in float32: `[len(tokens), vocab]`."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([list(tokens)])).logits[0]
    return logits
