"""How far tensors are from what was expected: relative errors of values, divergences of predictions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The root mean square of the difference over that of what was expected, computed in float64.

    Equal elements differ by nothing, infinities and NaNs among them. The error is infinite if either tensor is not
    finite where the two differ, or if everything that was expected is 0 and something else was found.
    """
    a, b = found.double(), expected.double()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, a - b).norm().item()
    if difference == 0.0:
        return 0.0
    size = torch.where(b.isfinite(), b, 0.0).norm().item()
    return difference / size if size and math.isfinite(difference) else math.inf


def kl_divergence(expected: Tensor, found: Tensor) -> float:
    """The Kullback-Leibler divergence of found distributions from expected ones, in nats, summed over all of them.

    It is the sum of `p * (log p - log q)` (Kullback & Leibler, 1951), accumulated in float64.

    Args:
        expected: `log p`, logarithms of probabilities, `[..., vocabulary]`, such as `logits.log_softmax(-1)`.
        found: `log q`, of the same shape.
    """
    return float((expected.exp() * (expected - found)).sum(-1, dtype=torch.float64).sum())
