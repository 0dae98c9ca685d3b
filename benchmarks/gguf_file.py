"""A Hugging Face folder of Qwen2 or Qwen3 as a GGUF file in float16, for llama.cpp to quantize."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

_ARCHITECTURES = {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


def write_gguf(checkpoint: Path, out: Path, *, biases: bool = True) -> None:
    """Writes `out`, without a tokenizer: who asks sends token ids.

    Args:
        biases: False leaves out the biases of q, k and v, which must be zero: SmolLM2's layers have none, and adding
            zeros would cost llama.cpp time that its users do not spend.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    architecture = _ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[architecture])
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, tensor in _tensors(checkpoint).items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        if not biases and name.endswith("_proj.bias"):
            assert not tensor.any(), f"{name} is not zero"
            continue
        # Vectors stay in float32, as llama.cpp's own converter has it.
        array = tensor.float().numpy() if tensor.dim() == 1 else tensor.float().numpy().astype(np.float16)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {name: its for file in sorted(checkpoint.glob("*.safetensors")) for name, its in load_file(file).items()}
