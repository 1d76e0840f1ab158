"""How far tensors are from what was expected."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relative_error(found: Tensor, expected: Tensor) -> float:
    """RMS of the difference over RMS of what was expected; infinite if either is not finite where the two differ.

    Equal elements differ by nothing, infinities and NaNs among them.
    """
    a, b = found.double(), expected.double()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, a - b).norm().item()
    if difference == 0.0:
        return 0.0
    size = torch.where(b.isfinite(), b, 0.0).norm().item()
    return difference / size if size and math.isfinite(difference) else math.inf
