"""PEFT adapters: read and converted to the number, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from runtime.errors import AdapterError
from runtime.package import Geometry
from runtime.sessions.adapters import read_adapter
from toolchain.checkpoints.adapters import convert, read_peft, require_same_shape
from toolchain.checkpoints.smoothing import Smoothing
from toolchain.graphs.surgery import Site

GEOMETRY = Geometry(
    architecture="Qwen2ForCausalLM",
    layers=2,
    kv_heads=1,
    head_dim=4,
    hidden_size=8,
    vocab_size=16,
    context_tokens=64,
    eos_token_ids=[1],
    bos_token_id=None,
)
SITES = [Site(f"model.layers.{layer}.attn.qkv_proj", 8, 16) for layer in (0, 1)]
NOT_SMOOTHED = Smoothing({})
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "bias": "none"}
PREFIX = "base_model.model.model.layers"


def pair(name: str, inputs: int, outputs: int, rank: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(name) + outputs)
    return {
        f"{PREFIX}.{name}.lora_A.weight": torch.randn(rank, inputs, generator=generator),
        f"{PREFIX}.{name}.lora_B.weight": torch.randn(outputs, rank, generator=generator),
    }


def make(folder: Path, *pairs: dict[str, torch.Tensor], **config: object) -> Path:
    """A PEFT adapter, by default of the second layer's q and v."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | config))
    weights = pairs or (pair("1.self_attn.q_proj", 8, 8), pair("1.self_attn.v_proj", 8, 4, rank=3))
    save_file({name: tensor for each in weights for name, tensor in each.items()}, folder / "adapter_model.safetensors")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(AdapterError) as error:
        read_peft(folder)
    return str(error.value)


@pytest.mark.parametrize(("rslora", "scales"), [(False, (8 / 2, 8 / 3)), (True, (8 / 2**0.5, 8 / 3**0.5))])
def test_projections_whose_outputs_lie_side_by_side_keep_to_their_columns(
    tmp_path: Path, rslora: bool, scales: tuple[float, float]
) -> None:
    """A times B of a fused site is each projection's own product, scaled, with zeros for the one that is not there."""
    adapter = read_peft(make(tmp_path / "a", use_rslora=rslora))
    assert (adapter.rank, adapter.alpha, adapter.targets) == (3, 8.0, ("q_proj", "v_proj"))
    convert(adapter, SITES, NOT_SMOOTHED, GEOMETRY, "0" * 64, tmp_path / "a.onnx_adapter")
    file = read_adapter("a", tmp_path / "a.onnx_adapter")
    names = [f"model.layers.1.attn.qkv_proj.lora_{part}.weight" for part in "AB"]
    assert sorted(file.tensors) == names
    q, v = (pair(f"1.self_attn.{name}_proj", 8, size, rank) for name, size, rank in (("q", 8, 2), ("v", 4, 3)))
    wanted = np.zeros((8, 16), np.float32)
    for weights, columns, scale in ((q, slice(0, 8), scales[0]), (v, slice(12, 16), scales[1])):
        down, up = weights.values()
        wanted[:, columns] = (up @ down).T.numpy() * scale
    got = file.tensors[names[0]].numpy() @ file.tensors[names[1]].numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True, "bias": "all"}, "is not plain LoRA (use_dora is set; bias is all)"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is pissa_niter_4"),
        ({"lora_alpha": None}, "lora_alpha is no number"),
        ({"peft_type": "LOHA"}, "is of type LOHA; edgeqwen takes LORA"),
    ],
)
def test_what_is_more_than_a_and_b_is_refused(tmp_path: Path, config: dict[str, object], reason: str) -> None:
    assert reason in refusal(make(tmp_path / "a", **config))


def test_weights_that_cannot_be_placed_are_refused_by_name(tmp_path: Path) -> None:
    q = pair("0.self_attn.q_proj", 8, 8)
    half = dict(list(q.items())[:1])
    nan = {name: tensor * float("nan") for name, tensor in q.items()}
    head = {"base_model.model.lm_head.lora_A.weight": torch.ones(2, 8)}
    assert "changes base_model.model.lm_head.lora_A.weight" in refusal(make(tmp_path / "head", head))
    assert "no pair of A and B for q_proj of layer 0" in refusal(make(tmp_path / "half", half))
    assert "no numbers in q_proj of layer 0" in refusal(make(tmp_path / "nan", nan))
    assert "is it a PEFT adapter" in refusal(tmp_path)
    broken = make(tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"half a file")
    assert "cannot be read" in refusal(broken)


@pytest.mark.parametrize(
    "weights",
    [pair("2.self_attn.q_proj", 8, 8), pair("0.self_attn.k_proj", 8, 8), pair("0.mlp.up_proj", 4, 32)],
)
def test_an_adapter_of_another_model_is_refused_before_anything_is_built(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    """A layer too many, heads of another size, another width."""
    with pytest.raises(AdapterError, match="was trained on another model"):
        require_same_shape(read_peft(make(tmp_path / "a", weights)), GEOMETRY)


def test_a_projection_that_the_package_does_not_let_change_is_named(tmp_path: Path) -> None:
    adapter = read_peft(make(tmp_path / "a", pair("0.self_attn.o_proj", 8, 8)))
    with pytest.raises(AdapterError, match=r"changes o_proj of layer 0.*build it with --adapter-targets o_proj"):
        convert(adapter, SITES, NOT_SMOOTHED, GEOMETRY, "0" * 64, tmp_path / "a.onnx_adapter")
    assert not (tmp_path / "a.onnx_adapter").exists()
