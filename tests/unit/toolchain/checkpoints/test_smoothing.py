"""Channels evened out: the model computes the same, adapters too, and int8 activations lose less."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Architecture, make_tiny
from transformers import AutoModelForCausalLM

from runtime.package import SMOOTHING_FILE
from toolchain.checkpoints.smoothing import Smoothing
from toolchain.passes.smooth_activations import smooth

WINDOWS = [torch.randint(3, 300, (1, 64), generator=torch.Generator().manual_seed(at)) for at in range(4)]
UNSEEN = torch.randint(3, 300, (1, 64), generator=torch.Generator().manual_seed(99))

architectures = pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])


def load(folder: Path, architecture: Architecture) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(make_tiny(folder, architecture), dtype=torch.float32)
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(UNSEEN).logits[0]
    return result


def linears(model: torch.nn.Module) -> dict[tuple[int, str], torch.nn.Linear]:
    """The projections of a model, by layer and name."""
    named = ((name.split("."), module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return {(int(name[2]), name[-1]): module for name, module in named if name[0] == "model"}


@architectures
def test_the_model_computes_the_same(tmp_path: Path, architecture: Architecture) -> None:
    model = load(tmp_path, architecture)
    before = logits(model)
    factors = smooth(model, WINDOWS)
    assert all(bool((its > 0).all()) for its in factors.values())
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)


@architectures
def test_channels_are_as_strong_as_their_weights(tmp_path: Path, architecture: Architecture) -> None:
    """Made uneven on purpose, a hundred times each way, each channel ends about as strong as the weights it meets."""
    model = load(tmp_path, architecture)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.post_attention_layernorm.weight.copy_(torch.logspace(-2, 2, layer.mlp.gate_proj.in_features))
    smooth(model, WINDOWS)
    seen: list[torch.Tensor] = []
    mlp = model.model.layers[1].mlp
    mlp.gate_proj.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][0]))
    with torch.no_grad():
        for window in WINDOWS:
            model(window)
    strength = torch.cat(seen).pow(2).mean(0).sqrt()
    weights = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).pow(2).mean(0).sqrt()
    ratio = (strength / weights.detach()).log()
    assert float((ratio - ratio.mean()).abs().max()) < 1


@architectures
def test_adapters_are_converted_for_it(tmp_path: Path, architecture: Architecture) -> None:
    """B times A in every projection, with the factors, changes the smoothed model as it changes the float one."""
    model = load(tmp_path / "model", architecture)
    smoothed, generator = deepcopy(model), torch.Generator().manual_seed(1)
    np.savez(tmp_path / SMOOTHING_FILE, **{name: its.numpy() for name, its in smooth(smoothed, WINDOWS).items()})
    smoothing = Smoothing.beside(tmp_path / "serving.onnx")
    targets = linears(smoothed)
    with torch.no_grad():
        for key, module in linears(model).items():
            down = torch.randn(4, module.in_features, generator=generator)
            up = torch.randn(module.out_features, 4, generator=generator) * 0.02
            module.weight.add_(up @ down)
            down_there = down * torch.as_tensor(smoothing.of_input(*key))
            up_there = up.T / torch.as_tensor(smoothing.of_output(*key))
            targets[key].weight.add_(up_there.T @ down_there)
    torch.testing.assert_close(logits(smoothed), logits(model), atol=2e-4, rtol=2e-4)
    assert smoothing.base("0" * 64) != Smoothing({}).base("0" * 64) == "0" * 64


def test_int8_activations_lose_less(tmp_path: Path) -> None:
    """With one channel in a hundred times as strong as the others, rounding in blocks costs a tenth of what it did."""
    model = load(tmp_path, "qwen2")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight[::8] *= 100
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                projection.weight[:, ::8] /= 100
    smoothed = deepcopy(model)
    smooth(smoothed, WINDOWS)
    assert divergence_of_rounding(smoothed) < divergence_of_rounding(model) / 10


def divergence_of_rounding(model: torch.nn.Module) -> float:
    """Mean KLD when activations are rounded to int8 in blocks of 32, as ONNX Runtime's kernels do it."""
    expected = logits(model).log_softmax(-1)
    handles = [module.register_forward_pre_hook(_rounded) for module in linears(model).values()]
    got = logits(model).log_softmax(-1)
    for handle in handles:
        handle.remove()
    return float((expected.exp() * (expected - got)).sum(-1).mean())


def _rounded(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    blocks = inputs[0].unflatten(-1, (-1, 32))
    scales = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (((blocks / scales).round() * scales).flatten(-2),)
