"""GPTQ in the order of the inputs' strength: what it must keep, and what it is better at."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from olive.common.quant.utils import WeightQuantizer

from toolchain.passes.ordered_gptq import Columns, OrderedGptq, find_scales

ROWS, COLUMNS, BLOCK = 24, 128, 32


def layer(quantizer: WeightQuantizer, hessian: torch.Tensor, *, seed: int = 0) -> torch.nn.Linear:
    torch.manual_seed(seed)
    module = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    module.quant_info = SimpleNamespace(quantizer=quantizer, data={"H": hessian.clone(), "N": 1})
    return module


def inputs(seed: int = 1) -> torch.Tensor:
    """Inputs that vary together, some of them a hundred times as strongly as others."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(512, COLUMNS, generator=generator) @ torch.randn(COLUMNS, COLUMNS, generator=generator)
    return mixed * torch.logspace(-1, 1, COLUMNS)[torch.randperm(COLUMNS, generator=generator)]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_weight_is_one_that_its_block_can_say(bits: int, symmetric: bool) -> None:
    """A whole number of steps from the zero point, and within the range of so many bits."""
    quantizer = WeightQuantizer(bits=bits, symmetric=symmetric, group_size=BLOCK)
    module = layer(quantizer, torch.eye(COLUMNS))
    OrderedGptq.process_module(module, percdamp=0.1)
    scales, zero_points = module.quant_info.scales, module.quant_info.zero_points
    assert scales.shape == zero_points.shape == (ROWS, COLUMNS // BLOCK)
    stored = quantizer.quantize(module.weight.data, scales, zero_points)
    assert stored.min() >= 0
    assert stored.max() < 2**bits
    torch.testing.assert_close(quantizer.dequantize(stored, scales, zero_points), module.weight.data)


def test_inputs_that_do_not_vary_together_leave_rounding_to_the_nearest() -> None:
    """There is nothing that another column could make up for: of its block's numbers, each weight gets the nearest."""
    quantizer = WeightQuantizer(bits=4, symmetric=False, group_size=BLOCK)
    module = layer(quantizer, torch.eye(COLUMNS))
    weight = module.weight.data.clone()
    OrderedGptq.process_module(module, percdamp=0.1)
    info = module.quant_info
    torch.testing.assert_close(
        module.weight.data, quantizer.fake_quantize(weight, info.scales, info.zero_points), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_no_sweep_makes_the_error_larger(bits: int) -> None:
    """Neither new scales nor new numbers, whatever they begin with."""
    quantizer = WeightQuantizer(bits=bits, symmetric=False, group_size=BLOCK)
    given = inputs()
    hessian = given.T @ given / len(given)
    hessian.diagonal().add_(0.1 * hessian.diagonal().mean())
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(2))
    scales, zero_points = quantizer.find_qparams(weight)
    block = torch.arange(COLUMNS) // BLOCK
    columns = Columns(weight, hessian, block, zero_points, quantizer.maxq)

    def error() -> float:
        off = weight - steps * scales[:, block]
        return float((off @ hessian * off).sum())

    steps = quantizer.quantize(weight, scales, zero_points).float() - zero_points[:, block]
    before = error()
    for _ in range(4):
        scales = columns.refit(steps, scales)
        assert (after := error()) <= before * (1 + 1e-5)
        steps = columns.descend(steps, scales)
        assert (before := error()) <= after * (1 + 1e-5)


def test_outputs_are_closer_than_with_rounding_to_the_nearest() -> None:
    """To those of the weights as they were, on the inputs that it was given: by half and more."""
    quantizer = WeightQuantizer(bits=4, symmetric=False, group_size=BLOCK)
    given = inputs()
    module = layer(quantizer, given.T @ given)
    weight = module.weight.data.clone()
    OrderedGptq.process_module(module, percdamp=0.01)
    nearest = quantizer.fake_quantize(weight, *quantizer.find_qparams(weight))
    errors = [float((given @ (its - weight).T).pow(2).sum()) for its in (module.weight.data, nearest)]
    assert errors[0] < errors[1] / 2


def test_scales_follow_the_columns_that_count() -> None:
    """An outlier that no input reaches does not widen the steps of its block."""
    quantizer = WeightQuantizer(bits=4, symmetric=True, group_size=BLOCK)
    weight = 0.1 * torch.cos(torch.arange(BLOCK, dtype=torch.float32))[None]
    weight[0, 3] = 0.16
    importance = torch.ones(BLOCK)
    importance[3] = 1e6
    counting, _ = find_scales(weight, importance, quantizer)
    importance[3] = 1e-6
    ignored, _ = find_scales(weight, importance, quantizer)
    assert ignored < counting
