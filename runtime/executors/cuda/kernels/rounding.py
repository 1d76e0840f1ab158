"""Rounding of rows to 8 bits and back."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from compiler.ir.dtypes import DType

_MOST_COLUMNS = 32_768


def round_rows(x: Tensor, dtype: DType, factor: float, least: float, most: float) -> Tensor:
    """What a row is once it is quantized with a scale of its own, and dequantized.

    The scale of a row is its largest magnitude times `factor`, clamped to `[least, most]`.

    Args:
        x: `[T, K]`, with unit stride in K.
        dtype: int8, or fp8 (e4m3).
        factor: see above.
        least: the smallest scale.
        most: the largest scale.

    Returns:
        `[T, K]`, of the type of `x`.
    """
    rows, width = x.shape
    out = torch.empty_like(x)
    if dtype is DType.f8e4m3 or width > _MOST_COLUMNS:
        wide = x.float()
        scale = (wide.abs().amax(-1, True) * factor).clamp(least, most)
        quotient = wide * (1 / scale)
        if dtype is DType.f8e4m3:
            return (quotient.clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) * scale.to(x.dtype)).to(x.dtype)
        return (quotient.round().clamp(-128, 127) * scale).to(x.dtype)
    block = triton.next_power_of_2(width)
    _round_rows[(rows,)](x, out, x.stride(0), width, factor, least, most, BLOCK=block, num_warps=8 if block > 2048 else 4)
    return out


@triton.jit
def _round_rows(x, out, stride, width, factor, least, most, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    values = tl.load(x + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.minimum(tl.maximum(tl.max(tl.abs(values), 0) * factor, least), most)
    # Adding and taking away 1.5 * 2**23 rounds a float32 below 2**22 to the nearest integer, half to even.
    quotient = values * (1.0 / scale)
    rounded = (quotient + 12582912.0) - 12582912.0
    rounded = tl.minimum(tl.maximum(rounded, -128.0), 127.0)
    tl.store(out + row * width + at, (rounded * scale).to(out.dtype.element_ty), mask=inside)
