"""Draws from distributions by inverse transform sampling."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 256


def draw(weights: Tensor, numbers: Tensor) -> Tensor:
    """The first place in each row at which the running sum of the weights exceeds a share of their sum.

    Sums are in float64 and run in the order of the places. That order must not depend on the weights: where it is
    that of the token ids, logits that differ by rounding give another draw only if the number lies within that
    rounding of a boundary between two tokens.

    Args:
        weights: `[rows, width]`, floating-point, finite and not negative; one of each row at least is positive.
        numbers: `f64[rows]`, the shares, in [0, 1).

    Returns:
        `i64[rows]`, places whose weights are positive.
    """
    rows, width = weights.shape
    blocks = torch.nn.functional.pad(weights, (0, -width % _BLOCK)).view(rows, -1, _BLOCK)
    sums = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = numbers * sums[:, -1]
    block = _first_above(sums, target)
    before = torch.nn.functional.pad(sums, (1, 0)).gather(1, block[:, None])[:, 0]
    within = blocks[torch.arange(rows, device=weights.device), block].cumsum(-1, dtype=torch.float64)
    return block * _BLOCK + _first_above(within, target - before)


def _first_above(sums: Tensor, targets: Tensor) -> Tensor:
    """The first place where a running sum exceeds the row's target, or else where it reaches its last value."""
    above = torch.searchsorted(sums, targets[:, None], right=True)
    return torch.minimum(above, torch.searchsorted(sums, sums[:, -1:].contiguous()))[:, 0]
