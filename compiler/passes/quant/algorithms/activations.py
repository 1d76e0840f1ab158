"""Rounding activations to 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import dequantize, quantize
from compiler.passes.quant.algorithms.scheme import LEAST_SCALE

LARGEST = {DType.i8: 127, DType.f8e4m3: 448}
"""The largest value of a quantized type that its negative is a value of, too."""


def round_activations(x: Tensor, amax: Tensor | float | None, dtype: DType = DType.i8) -> Tensor:
    """`x` `[T, K]` rounded to 8 bits and back, float32.

    `amax` becomes the largest value of the type; without one, the largest value of each token does.
    """
    largest = x.abs().amax(-1, keepdim=True) if amax is None else torch.as_tensor(amax, device=x.device).view(1, 1)
    scale = (largest.float() / LARGEST[dtype]).clamp(min=LEAST_SCALE)
    return dequantize(quantize(x, scale, None, dtype), scale, None)
