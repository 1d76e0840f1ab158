"""SmoothQuant: moving outliers of activations into weights before both are rounded (Xiao et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compiler.passes.quant.algorithms.activations import round_activations
from compiler.passes.quant.algorithms.scheme import IntegerScheme


def smoothing(inputs: Tensor, weights: Sequence[Tensor], alpha: float) -> Tensor:
    """The scales `s = amax|x| ** alpha / amax|W| ** (1 - alpha)` of the channels of `W s` over `x / s`; float32 `[K]`.

    Args:
        inputs: the largest absolute value of each input channel, `[K]`.
        weights: the weights of the linears over one input, each `[N, K]`.
        alpha: how much of the outliers moves, from 0 to 1.
    """
    columns = torch.stack([weight.float().abs().amax(0) for weight in weights]).amax(0)
    scales = inputs.float().clamp(min=1e-5).pow(alpha) / columns.clamp(min=1e-5).pow(1 - alpha)
    return scales.clamp(1e-4, 1e4)


def search_alpha(
    inputs: Tensor, rows: Tensor, weights: Sequence[Tensor], *, static: bool, steps: int = 20
) -> tuple[float, Tensor]:
    """The alpha with the least error of outputs among 0, 1/steps ... 1, and its scales.

    Args:
        inputs: the largest absolute value of each input channel, `[K]`.
        rows: some inputs, `[T, K]`.
        weights: the weights of the linears over them, each `[N, K]`.
        static: whether activations are rounded by one scale, not by one for each token.
        steps: how many intervals to divide 0 to 1 into.
    """
    rows = rows.float()
    best, chosen, least = 0.0, torch.ones_like(inputs, dtype=torch.float32), float("inf")
    for step in range(steps + 1):
        scales = smoothing(inputs, weights, step / steps)
        rounded = round_activations(rows / scales, (inputs / scales).amax() if static else None)
        error = 0.0
        for weight in weights:
            smoothed = IntegerScheme(8).nearest(weight.float() * scales).dense()
            error += float((rounded @ smoothed.T - rows @ weight.float().T).square().sum())
        if error < least:
            best, chosen, least = step / steps, scales, error
    return best, chosen
