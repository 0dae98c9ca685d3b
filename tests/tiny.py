"""Random checkpoints of real architectures, small enough to compile in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from chatml import CHATML, SPECIAL, raw_byte_tokenizer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 512
HIDDEN = 64


def make_tiny(folder: Path, architecture: Literal["qwen2", "qwen3"]) -> Path:
    """Writes a checkpoint whose qkv biases (Qwen2) or q and k norms (Qwen3) are far from neutral."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if architecture == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=32))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("proj.bias", "q_norm.weight", "k_norm.weight")):
                weight.copy_(torch.randn_like(weight) * 0.5 + 1.0)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def change_config(folder: Path, **values: object) -> None:
    """Overwrites keys of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """`raw_byte_tokenizer` as transformers wraps it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=raw_byte_tokenizer(), bos_token=SPECIAL[1], eos_token=SPECIAL[2], chat_template=CHATML
    )
