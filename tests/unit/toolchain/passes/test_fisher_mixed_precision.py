"""Which layers keep 8 bits: those whose rounding changes predictions most, for the room they take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from olive.common.quant.utils import WeightQuantizer
from tiny import Architecture, make_tiny
from transformers import AutoModelForCausalLM

from toolchain.passes.fisher_mixed_precision import choose, measure_damage

sizes = st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 100)), min_size=1, max_size=12)


@given(sizes, st.floats(0, 1))
def test_no_more_weights_are_chosen_than_may_be(layers: list[tuple[int, float]], share: float) -> None:
    """And none that could still go in does more damage for its size than one that is in."""
    weights = {f"layer{at}": size for at, (size, _) in enumerate(layers)}
    damage = {f"layer{at}": its for at, (_, its) in enumerate(layers)}
    chosen = choose([(name,) for name in weights], damage, weights, share)
    used, limit = sum(weights[name] for name in chosen), share * sum(weights.values())
    assert used <= limit
    assert len(set(chosen)) == len(chosen)
    left_out = [name for name in weights if name not in chosen and weights[name] <= limit - used]
    assert not left_out


def test_layers_of_a_unit_go_together() -> None:
    """Also where one of them alone would be the best choice of all."""
    weights, damage = {"q": 10, "k": 10, "o": 10}, {"q": 8.0, "k": 0.0, "o": 5.0}
    assert choose([("q", "k"), ("o",)], damage, weights, 0.4) == ["o"]
    assert choose([("q", "k"), ("o",)], damage, weights, 1.0) == ["o", "q", "k"]


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_damage_is_the_divergence_that_rounding_a_layer_causes(tmp_path: Path, architecture: Architecture) -> None:
    """As measured with each layer rounded alone: most to a third, all in nearly the same order.

    Values err in the same direction at all tokens, and attention adds that up: their damage is underestimated.
    """
    model = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path, architecture), dtype=torch.float32).eval()
    quantizer = WeightQuantizer(bits=4, symmetric=False, group_size=32)
    windows = [torch.randint(3, 300, (1, 64), generator=torch.Generator().manual_seed(at)) for at in range(8)]
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    with torch.no_grad():
        before = [model(window).logits[0].log_softmax(-1) for window in windows]

    def divergence(module: torch.nn.Linear) -> float:
        weight = module.weight.data
        module.weight.data = quantizer.fake_quantize(weight, *quantizer.find_qparams(weight))
        with torch.no_grad():
            after = [model(window).logits[0].log_softmax(-1) for window in windows]
        module.weight.data = weight
        pairs = zip(before, after, strict=True)
        return float(sum((one.exp() * (one - other)).sum() for one, other in pairs))

    measured = {name: divergence(module) for name, module in layers.items()}
    damage = measure_damage(model, layers, quantizer, windows)
    ratios = torch.tensor([damage[name] / measured[name] for name in layers])
    assert 0.67 < ratios.median() < 1.5
    ranks = [[sorted(its.values()).index(its[name]) for name in layers] for its in (measured, damage)]
    correlation = torch.corrcoef(torch.tensor(ranks, dtype=torch.float32))[0, 1]
    assert correlation > 0.8
