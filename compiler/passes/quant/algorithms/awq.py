"""AWQ: scaling up the input channels that matter before rounding (Lin et al., 2023), and clipping what does not.

A weight `W` over inputs `x` is replaced by `W s` over `x / s`, which is the same, and rounded then. Channels with
large inputs get a larger `s`, so that their weights lose less. All errors here are errors of outputs: with
`M = X X^T`, a change `D` of a weight changes the outputs by `tr(D M D^T)` in square.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compiler.ir.products import product
from compiler.passes.quant.algorithms.scheme import IntegerScheme, Scales

STEPS = 20
ROWS = 256
"""How many rows of a weight the error is summed over in the search for scales."""
CHUNK = 2**19
"""How many weights are searched for their clipping at a time: what a processor's cache holds."""


def squared_error(change: Tensor, gram: Tensor) -> Tensor:
    """The sum of squares by which outputs change, a scalar, for a change `[N, K]` of a weight and `M` `[K, K]`."""
    return (product(change, gram) * change).sum()  # M is symmetric


def search_scales(weights: Sequence[Tensor], mean_abs: Tensor, gram: Tensor, scheme: IntegerScheme) -> Tensor:
    """The scales `s`, float32 `[K]`, with the least error of outputs among `mean_abs ** alpha` for 20 alphas in [0, 1).

    The error is that of 256 outputs of each linear, evenly spread over all, or of all if there are fewer.

    Args:
        weights: the weights of the linears over one input, each `[N, K]`.
        mean_abs: the mean absolute value of each input channel, `[K]`.
        gram: the Gram matrix of the inputs, `X X^T`, `[K, K]`.
        scheme: how the weights will be rounded.
    """
    gram = gram.float()
    best, least = torch.ones_like(mean_abs, dtype=torch.float32), float("inf")
    weights = [weight[:: -(-len(weight) // ROWS)] for weight in weights]
    for step in range(STEPS):
        scales = candidate(mean_abs, step / STEPS)
        error = sum(
            float(squared_error(scheme.nearest(weight * scales).dense() / scales - weight, gram)) for weight in weights
        )
        if error < least:
            best, least = scales, error
    return best


def candidate(mean_abs: Tensor, alpha: float) -> Tensor:
    """`mean_abs ** alpha`, divided by the geometric mean of its extremes; float32 `[K]`, all positive."""
    scales = mean_abs.float().clamp(min=1e-4).pow(alpha)
    return scales / (scales.max() * scales.min()).sqrt()


def search_clipping(
    weight: Tensor, gram: Tensor, scheme: IntegerScheme, *, shrink: float = 0.5, steps: int = STEPS
) -> Scales:
    """The scales with the least error of outputs among those of a smaller range, block by block.

    The error of a block is that of its own part of the outputs, so that blocks are searched apart.

    Args:
        weight: the weight, `[N, K]`.
        gram: the Gram matrix of the inputs, `X X^T`, `[K, K]`.
        scheme: how the weight will be rounded.
        shrink: how small the range may become.
        steps: how many widths are tried for that.
    """
    weight = weight.float()
    width = scheme.width(weight.shape[1])
    places = torch.arange(weight.shape[1], device=weight.device).view(-1, width)
    grams = gram.float()[places[:, :, None], places[:, None, :]]  # [blocks, width, width]
    rows = max(1, CHUNK // weight.shape[1])
    parts = [_clipped(part, grams, scheme, shrink, steps) for part in weight.split(rows)]
    zeros = [part.zero for part in parts if part.zero is not None]
    return Scales(torch.cat([part.scale for part in parts]), torch.cat(zeros) if zeros else None)


def _clipped(weight: Tensor, grams: Tensor, scheme: IntegerScheme, shrink: float, steps: int) -> Scales:
    blocks = weight.unflatten(1, (-1, grams.shape[1])).transpose(0, 1).contiguous()  # [blocks, N, width]
    least, most = blocks.aminmax(dim=2)
    best = scheme.scales_of_range(least, most)
    best_error = torch.full_like(best.scale, float("inf"))
    change, moved = torch.empty_like(blocks), torch.empty_like(blocks)
    for step in range(steps):
        ratio = 1 - shrink * step / steps
        tried = scheme.scales_of_range(least * ratio, most * ratio)
        zero = None if tried.zero is None else tried.zero[:, :, None]
        scheme.round_(torch.mul(blocks, (1 / tried.scale)[:, :, None], out=change), zero)
        if zero is not None:
            change -= zero
        change.mul_(tried.scale[:, :, None]).sub_(blocks)
        error = torch.bmm(change, grams, out=moved).mul_(change).sum(2)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        kept = None if best.zero is None or tried.zero is None else torch.where(better, tried.zero, best.zero)
        best = Scales(torch.where(better, tried.scale, best.scale), kept)
    return Scales(best.scale.T, None if best.zero is None else best.zero.T)
