"""An Olive pass: GPTQ (Frantar et al., arXiv:2210.17323) with blocks that are fixed before columns are taken by weight.

Olive's own takes columns as they lie where blocks share a scale. Taken in the order of how strongly their inputs vary,
the columns that matter are rounded first, while those that can make up for it are still free; the blocks keep their
place, so the result is stored and run like any other. Scales minimize the squared error, each column weighted as its
input varies, instead of spanning the block's range.
"""

from __future__ import annotations

import torch
from olive.common.quant.utils import WeightQuantizer
from olive.passes.pytorch.gptq import Gptq

_SHRINK = torch.linspace(1.0, 0.6, 17)
"""The ranges that are tried for a block, as parts of what it spans."""

_COLUMNS = 128  # updated at once


class OrderedGptq(Gptq):
    """Olive's GPTQ but for how a layer is rounded."""

    @staticmethod
    @torch.no_grad()
    def process_module(
        module: torch.nn.Module, blocksize: int = _COLUMNS, percdamp: float = 0.01, actorder: bool | None = None
    ) -> None:
        """Rounds `module`, whose inputs' second moments were gathered, and notes its scales and zero points."""
        info, hessian = module.quant_info, module.quant_info.data["H"]
        weight = module.weight.data.clone().float()
        columns = hessian.shape[0]
        diagonal = torch.arange(columns)
        dead = hessian.diagonal() == 0
        hessian[dead, dead] = 1
        scales, zero_points = find_scales(weight, hessian.diagonal(), info.quantizer)
        hessian[diagonal, diagonal] += percdamp * hessian.diagonal().mean()
        order = hessian.diagonal().argsort(descending=True)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
        factor = torch.linalg.cholesky(inverse, upper=True)
        group = (diagonal // (columns // scales.shape[1]))[order]
        rounded = torch.empty_like(weight)
        rounded[:, order] = _round(
            weight[:, order], factor, scales[:, group], zero_points[:, group], info.quantizer.maxq, blocksize
        )
        module.weight.data = rounded.to(module.weight.dtype)
        info.scales, info.zero_points, info.data = scales, zero_points.to(torch.int32), None


def find_scales(
    weight: torch.Tensor, importance: torch.Tensor, quantizer: WeightQuantizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points `[out, blocks]` of float32 `weight` `[out, in]`, whose columns count by `importance`."""
    groups = quantizer.get_num_groups(tuple(weight.shape))
    blocks = weight.view(weight.shape[0], groups, -1)
    weights = importance.view(1, groups, -1)
    best = torch.full(blocks.shape[:2], torch.inf)
    scales, zero_points = quantizer.find_qparams(weight)
    for shrink in _SHRINK:
        scale, zero_point = quantizer.find_qparams(weight * shrink)
        steps = ((blocks / scale[..., None]).round() + zero_point[..., None]).clamp(0, quantizer.maxq)
        error = ((steps - zero_point[..., None]) * scale[..., None] - blocks).pow(2).mul(weights).sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        scales, zero_points = torch.where(better, scale, scales), torch.where(better, zero_point, zero_points)
    return scales, zero_points


def _round(
    weight: torch.Tensor,
    factor: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    largest: int,
    columns: int,
) -> torch.Tensor:
    """Rounds column by column, and spreads the error of each over those that follow. All are `[out, in]`."""
    rounded = torch.empty_like(weight)
    for start in range(0, weight.shape[1], columns):
        end = min(start + columns, weight.shape[1])
        errors = torch.empty(weight.shape[0], end - start)
        for at in range(start, end):
            scale, zero_point = scales[:, at], zero_points[:, at]
            steps = ((weight[:, at] / scale).round() + zero_point).clamp(0, largest)
            rounded[:, at] = (steps - zero_point) * scale
            error = (weight[:, at] - rounded[:, at]) / factor[at, at]
            weight[:, at + 1 : end] -= error[:, None] * factor[at, at + 1 : end]
            errors[:, at - start] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    return rounded
