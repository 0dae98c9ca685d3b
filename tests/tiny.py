"""Random checkpoints of real architectures, small enough to compile in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from chatml import CHATML, SPECIAL, raw_byte_tokenizer
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

Architecture = Literal["qwen2", "qwen3", "qwen3_moe"]

VOCABULARY = 512
HIDDEN = 64


_TINY = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
}
_HEADS = {"head_dim": 32}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
_MORE: dict[Architecture, dict[str, int]] = {"qwen2": {}, "qwen3": _HEADS, "qwen3_moe": _HEADS | _EXPERTS}
# The published layers of Qwen2.5-0.5B and of Qwen3-0.6B.
_REAL = {
    "qwen2": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-6,
    },
    "qwen3": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40_960,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-6,
    },
}


def make_tiny(folder: Path, architecture: Architecture, **changed: float) -> Path:
    """Two small layers: compiled in seconds. `changed` is what config.json says otherwise."""
    return _make(folder, architecture, _TINY | _MORE[architecture] | changed)


def make_real_shape(folder: Path, architecture: Architecture) -> Path:
    """Two layers of the size that the published models have, with a small vocabulary."""
    return _make(folder, architecture, _REAL[architecture])


def _make(folder: Path, architecture: Architecture, shape: dict[str, int | float]) -> Path:
    """Writes a checkpoint whose qkv biases (Qwen2) or q and k norms (Qwen3) are far from neutral."""
    torch.manual_seed(0)
    common = {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": 2,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if architecture == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**common, **shape))
    elif architecture == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**common, **shape))
    else:
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**common, **shape))
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
