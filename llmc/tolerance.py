"""How far logits may lie from a reference before rounding does not explain it.

Every layer rounds the values on its way to the logits a number of times to the element type, by at most eps / 2 of
their size each, and these errors are as good as independent: over the layers they add up like a random walk, to about
eps * sqrt(layers). Engine and reference both round, and models amplify some errors (a norm divides by what is left
after a subtraction), hence the factor. The logits of the examples, which have four layers, differ by up to 1.7 eps in
16 bits; the tolerance allows ten.

In float32 the order of a sum matters instead: executors sum products in different orders, and a sum of K terms has an
error of about eps * sqrt(K), with K around 4096. In 16 bits sums are done in float32, too, so this error is small
there.
"""

from __future__ import annotations

import math

import torch

_FACTOR = 5.0
_TERMS = 4096
_SUMMING = torch.finfo(torch.float32).eps * math.sqrt(_TERMS)


def logits_tolerance(dtype: str, layers: int) -> float:
    """The largest relative error of logits that rounding explains: RMS of the difference over RMS of the reference.

    Args:
        dtype: the element type computed in: `float32`, `float16` or `bfloat16`.
        layers: how many layers the model has.
    """
    rounding = torch.finfo(getattr(torch, dtype)).eps
    return _FACTOR * math.sqrt(layers) * max(rounding, _SUMMING)
