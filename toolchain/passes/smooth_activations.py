"""An Olive pass: SmoothQuant's factors (Xiao et al., arXiv:2211.10438), so that rounded activations lose less.

CPUs compute matrix products on activations that are rounded to int8, block by block. A channel that is much stronger
than its neighbours makes the steps of their block coarse. So each channel of a product's input is divided by a factor,
and the weights that meet it are multiplied by that: the model computes the same, and both sides are about equally even.
The division goes into what gives the input, where it costs nothing: the norm, the rows of `up_proj` before `down_proj`,
those of `v_proj` before `o_proj`. The head's input stays as it is, for the head's table is the embedding's too.

Weights at 4 bits lose more by factors than int8 activations gain: only inputs of products at 8 bits are evened out.

The factors are kept beside the checkpoint: adapters were trained without them (see `smoothing`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from olive.data.config import DataConfig
from olive.model import HfModelHandler
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam
from olive.passes.pytorch.common import inherit_hf_from_hf
from olive.passes.pytorch.train_utils import get_calibration_dataset, load_hf_base_model
from tqdm import tqdm

from runtime.package import PROJECTIONS, SMOOTHING_FILE

from ..checkpoints.smoothing import input_name, output_name

WINDOWS = 8
LARGEST = 64.0
"""No channel is divided or multiplied by more."""

Takers = dict[str, list[torch.nn.Linear]]
"""The projections that take an input, by the name of the first."""


class SmoothActivations(Pass):
    """Writes the checkpoint in float32 with its channels evened out, and the factors beside it."""

    @classmethod
    def _default_config(cls, accelerator_spec: object) -> dict[str, PassConfigParam]:
        return {"data_config": PassConfigParam(type_=DataConfig | dict, required=True, description="Calibration text.")}

    def _run_for_config(
        self, model: HfModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> HfModelHandler:
        smoothed = load_hf_base_model(model, torch_dtype=torch.float32).eval()
        texts = get_calibration_dataset(model, config.data_config)[:WINDOWS]
        factors = smooth(smoothed, [text["input_ids"] for text in texts], _at_8_bits(model))
        smoothed.save_pretrained(output_model_path)
        model.save_metadata(output_model_path)
        file = Path(output_model_path) / SMOOTHING_FILE
        # Not as safetensors: ModelBuilder takes all such files beside a checkpoint for weights.
        np.savez(file, **{name: its.numpy() for name, its in factors.items()})
        output = inherit_hf_from_hf(model, output_model_path)
        output.model_attributes = (model.model_attributes or {}) | {"additional_files": [str(file)]}
        return output


def _at_8_bits(model: HfModelHandler) -> set[str] | None:
    """The layers that a pass before this one marked for 8 bits; None if there was none."""
    marked = (model.model_attributes or {}).get("mixed_precision_info")
    return {name for name, its in marked["overrides"].items() if its.get("bits") == 8} if marked else None


@torch.no_grad()
def smooth(
    model: torch.nn.Module, windows: Sequence[torch.Tensor], at_8_bits: Collection[str] | None = None
) -> dict[str, torch.Tensor]:
    """Evens out the channels of `model`, a Qwen2 or Qwen3 for causal language modelling, in place.

    Args:
        windows: calibration tokens, int64 `[1, tokens]` each.
        at_8_bits: names of the linear layers whose inputs to even out; None for all.

    Returns what inputs and outputs were divided by, float32 `[channels]`, as `smoothing` names them.
    """
    layers = list(model.model.layers)
    names = {module: name for name, module in model.named_modules()}
    takers = [
        {
            name: sharing
            for name, sharing in _takers(layer).items()
            if at_8_bits is None or all(names[taker] in at_8_bits for taker in sharing)
        }
        for layer in layers
    ]
    strengths = _strengths(model, takers, windows)
    kept = {}
    for number, (layer, its) in enumerate(zip(layers, takers, strict=True)):
        for name, sharing in its.items():
            factors = of_giver = _factors(strengths[sharing[0]], sharing)
            giver_name, giver = _giver(layer, name)
            if giver_name == "v_proj":
                of_giver, factors = _of_values(factors, layer.self_attn)
            for taker in sharing:
                taker.weight.mul_(factors)
            for parameter in giver.parameters():  # of a row each: weights, and a bias if there is one
                parameter.div_(of_giver.view(-1, *[1] * (parameter.ndim - 1)))
            kept[input_name(number, name)] = factors
            if giver_name in PROJECTIONS:
                kept[output_name(number, giver_name)] = of_giver.clone()
    return kept


def _takers(layer: torch.nn.Module) -> Takers:
    attention, mlp = layer.self_attn, layer.mlp
    return {
        "q_proj": [attention.q_proj, attention.k_proj, attention.v_proj],
        "o_proj": [attention.o_proj],
        "gate_proj": [mlp.gate_proj, mlp.up_proj],
        "down_proj": [mlp.down_proj],
    }


def _giver(layer: torch.nn.Module, name: str) -> tuple[str, torch.nn.Module]:
    """What gives the input of the projection `name`."""
    return {
        "q_proj": ("input_layernorm", layer.input_layernorm),
        "o_proj": ("v_proj", layer.self_attn.v_proj),
        "gate_proj": ("post_attention_layernorm", layer.post_attention_layernorm),
        "down_proj": ("up_proj", layer.mlp.up_proj),
    }[name]


def _strengths(
    model: torch.nn.Module, takers: Sequence[Takers], windows: Sequence[torch.Tensor]
) -> dict[torch.nn.Module, torch.Tensor]:
    """The root of the mean square of each channel, `[in]`, by the first projection that takes it."""
    power: dict[torch.nn.Module, torch.Tensor] = {}

    def watch(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        power[module] = power.get(module, 0) + inputs[0].pow(2).flatten(0, -2).sum(0)

    handles = [first[0].register_forward_pre_hook(watch) for its in takers for first in its.values()]
    try:
        for window in tqdm(windows, desc="Measuring activations"):
            model(window, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    tokens = sum(window.shape[1] for window in windows)
    return {module: (its / tokens).sqrt() for module, its in power.items()}


def _factors(strength: torch.Tensor, takers: Sequence[torch.nn.Linear]) -> torch.Tensor:
    """The root of a channel's strength over that of its weights; 1 in the geometric mean."""
    weights = torch.cat([taker.weight for taker in takers]).pow(2).mean(0).sqrt()
    logarithms = (strength.clamp_min(1e-12).log() - weights.clamp_min(1e-12).log()) / 2
    return (logarithms - logarithms.mean()).exp().clamp(1 / LARGEST, LARGEST)


def _of_values(factors: torch.Tensor, attention: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """For the channels of the values, and for those of `o_proj`'s input, where several queries share each of them."""
    shared = factors.view(attention.v_proj.out_features // attention.head_dim, -1, attention.head_dim)
    values = shared.log().mean(1, keepdim=True).exp()
    return values.flatten(), values.expand_as(shared).flatten()
