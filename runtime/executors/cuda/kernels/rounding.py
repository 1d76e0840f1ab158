"""Rounding of rows to 8 bits and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.executors.cuda.kernels.elements import FP8_BITS, INT8, quantized, widened

WIDEST = 65_536
"""The most values of a row that a kernel holds."""


class RowScale(NamedTuple):
    """A scale for each row: its largest magnitude times `factor`, clamped to `[least, most]`."""

    factor: float
    least: float
    most: float


def round_rows(x: Tensor, dtype: torch.dtype, scale: Tensor | RowScale) -> Tensor:
    """What rows are once they are quantized to int8 or float8_e4m3fn, and dequantized.

    Args:
        x: `[T, K]`, with unit stride in K; K is `WIDEST` at most.
        dtype: int8 or float8_e4m3fn.
        scale: `f32[1]` for all values, `f32[K]` for those of a column, or how each row has its own.

    Returns:
        `[T, K]`, of the type of `x`.
    """
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    own = scale if isinstance(scale, RowScale) else RowScale(0.0, 0.0, 0.0)
    given = out if isinstance(scale, RowScale) else scale  # a pointer that is not read
    block = triton.next_power_of_2(width)
    _round_rows[(rows,)](
        x, given, out, x.stride(0), *own, WIDTH=width, BLOCK=block, OWN=isinstance(scale, RowScale),
        COLUMNS=isinstance(scale, Tensor) and scale.numel() > 1, FP8=dtype is torch.float8_e4m3fn,
        num_warps=min(16, max(1, block // 512)),
    )  # fmt: skip
    return out


@triton.jit
def _round_rows(
    x, scales, out, stride, factor, least, most,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, OWN: tl.constexpr, COLUMNS: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """One row a program; `scales` is read unless each row has its own scale."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < WIDTH
    values = tl.load(x + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    if OWN:
        scale = tl.minimum(tl.maximum(tl.max(tl.abs(values), 0) * factor, least), most)
    elif COLUMNS:
        scale = tl.load(scales + at, mask=inside, other=1.0)
    else:
        scale = tl.load(scales)
    if FP8:
        rounded = widened(quantized(values, scale, 0.0, FP8_BITS, tl.uint8), 0.0, FP8_BITS, tl.float32)
    else:
        rounded = quantized(values, scale, 0.0, INT8, tl.int8).to(tl.float32)
    tl.store(out + row * WIDTH + at, (rounded * scale).to(out.dtype.element_ty), mask=inside)
