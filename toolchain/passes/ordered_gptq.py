"""An Olive pass: GPTQ with its columns in order, and what it leaves improved.

GPTQ (Frantar et al., arXiv:2210.17323) rounds column by column and lets the columns that follow make up for the error.
Here columns come in the order of how strongly their inputs vary: those that matter are rounded first, while the others
are still free. Blocks and their zero points are fixed before, so the result is stored and run like any other; Olive's
own takes columns as they lie where blocks share a scale.

Then, a few times: the scales that are best for the numbers found, by least squares; and for each column the number that
is best for all the others as they are, as in QuantEase (Behdin et al., arXiv:2309.01885). Neither ever makes the error
of a layer larger.
"""

from __future__ import annotations

import torch
from olive.common.quant.utils import WeightQuantizer
from olive.passes.pytorch.gptq import Gptq

SWEEPS = 3

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
        weight = module.weight.data.float()
        dead = hessian.diagonal() == 0
        hessian[dead, dead] = 1
        scales, zero_points = find_scales(weight, hessian.diagonal(), info.quantizer)
        if info.quantizer.bits == 8:  # nothing is left to make up for
            module.weight.data = info.quantizer.fake_quantize(weight, scales, zero_points).to(module.weight.dtype)
        else:
            hessian.diagonal().add_(percdamp * hessian.diagonal().mean())
            steps, scales = solve(weight, hessian, scales, zero_points, info.quantizer.maxq)
            module.weight.data = (steps * _spread(scales, weight)).to(module.weight.dtype)
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


def solve(
    weight: torch.Tensor, hessian: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, largest: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers of steps `[out, in]`, less the zero point, and the scales that go with them.

    Args:
        weight: float32 `[out, in]`.
        hessian: of the layer's squared error, `[in, in]`, positive definite.
        scales: to begin with; as zero_points `[out, blocks]`.
        largest: the range of a stored number is from 0 to this.
    """
    order = hessian.diagonal().argsort(descending=True)
    block = torch.arange(weight.shape[1])[order] // (weight.shape[1] // scales.shape[1])
    columns = Columns(weight[:, order], hessian[order][:, order], block, zero_points, largest)
    steps = columns.gptq(scales)
    for _ in range(SWEEPS):
        scales = columns.refit(steps, scales)
        steps = columns.descend(steps, scales)
    back = order.argsort()
    return steps[:, back], scales


class Columns:
    """A layer's columns in the order in which they are rounded; `block` says which block each is of."""

    def __init__(
        self, weight: torch.Tensor, hessian: torch.Tensor, block: torch.Tensor, zero_points: torch.Tensor, largest: int
    ) -> None:
        self._weight, self._hessian, self._block = weight, hessian, block
        self._lowest = -zero_points[:, block].float()
        self._highest = self._lowest + largest

    def _nearest(self, value: torch.Tensor, scale: torch.Tensor, at: int) -> torch.Tensor:
        return (value / scale).round().clamp(self._lowest[:, at], self._highest[:, at])

    def gptq(self, scales: torch.Tensor) -> torch.Tensor:
        """Each column to the nearest number; those behind it make up for the error."""
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self._hessian))
        factor = torch.linalg.cholesky(inverse, upper=True)
        scales, weight = scales[:, self._block], self._weight.clone()
        steps = torch.empty_like(weight)
        for start in range(0, weight.shape[1], _COLUMNS):
            end = min(start + _COLUMNS, weight.shape[1])
            errors = torch.empty(weight.shape[0], end - start)
            for at in range(start, end):
                steps[:, at] = self._nearest(weight[:, at], scales[:, at], at)
                error = (weight[:, at] - steps[:, at] * scales[:, at]) / factor[at, at]
                weight[:, at + 1 : end] -= error[:, None] * factor[at, at + 1 : end]
                errors[:, at - start] = error
            weight[:, end:] -= errors @ factor[start:end, end:]
        return steps

    def refit(self, steps: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """The scales that give the least error with `steps`; those of a block of zeros stay."""
        blocks = scales.shape[1]
        member = torch.nn.functional.one_hot(self._block, blocks).float()
        weighted = self._weight @ self._hessian
        targets = (steps * weighted) @ member
        products = torch.empty(len(steps), blocks, blocks)
        for one in range(blocks):
            reached = (steps * member[:, one]) @ self._hessian
            products[:, one] = (reached * steps) @ member
        diagonal = products.diagonal(dim1=1, dim2=2)
        diagonal += 1e-6 * diagonal.mean(1, keepdim=True) + 1e-12
        found = torch.linalg.solve(products, targets[..., None])[..., 0]
        return torch.where((found > 0) & (found < 2 * scales), found, scales)

    def descend(self, steps: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Each column in turn to the number that is best with all the others as they are."""
        scales, steps = scales[:, self._block], steps.clone()
        error = self._weight - steps * scales
        for start in range(0, error.shape[1], _COLUMNS):
            end = min(start + _COLUMNS, error.shape[1])
            pull = error @ self._hessian[:, start:end]
            for at in range(start, end):
                wanted = steps[:, at] * scales[:, at] + pull[:, at - start] / self._hessian[at, at]
                nearest = self._nearest(wanted, scales[:, at], at)
                change = (nearest - steps[:, at]) * scales[:, at]
                pull -= change[:, None] * self._hessian[at, start:end]
                error[:, at] -= change
                steps[:, at] = nearest
        return steps


def _spread(scales: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The scale of each weight."""
    return scales.repeat_interleave(weight.shape[1] // scales.shape[1], dim=1)
