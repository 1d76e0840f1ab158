"""Rounding of rows to 8 bits, and back."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.executors.cuda.kernels.elements import FP8_BITS, INT8, quantized, widened

WIDEST = 65_536
"""The most values of a row that a kernel holds."""


class Rounded(NamedTuple):
    """Rows of activations as 8-bit numbers.

    Attributes:
        q: int8 or float8_e4m3fn, `[T, K]`.
        scale: float32, `[T, 1]`, or `[1]` for all rows: what the numbers are multiples of.
    """

    q: Tensor
    scale: Tensor


class RowScale(NamedTuple):
    """A scale for each row: its largest magnitude times `factor`, clamped to `[least, most]`."""

    factor: float
    least: float
    most: float


@cache
def has_float8(device: torch.device) -> bool:
    """Whether a device has instructions for float8."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def adds_float8(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of float8 numbers are left to these instructions, for results of a type.

    They add up with some 14 bits, which is enough for 16-bit results, but not for float32.
    """
    return dtype is not torch.float32 and (device.type == "meta" or has_float8(device))


def widened_rows(x: Rounded, dtype: torch.dtype) -> Tensor:
    """What rounded rows stand for."""
    return (x.q.float() * x.scale).to(dtype)


def quantize_rows(x: Tensor, dtype: torch.dtype, scale: Tensor | RowScale) -> Rounded:
    """Rows as 8-bit numbers; see `round_rows` for the arguments, of which `scale` is not one for each column."""
    rows, width = x.shape
    own = isinstance(scale, RowScale)
    q = torch.empty((rows, width), dtype=dtype, device=x.device)
    given = torch.empty(rows, 1, device=x.device) if isinstance(scale, RowScale) else scale
    bits = q.view(torch.uint8) if dtype is torch.float8_e4m3fn else q
    _launch(x, scale, bits, dtype, given if own else None)
    return Rounded(q, given)


def round_rows(x: Tensor, dtype: torch.dtype, scale: Tensor | RowScale) -> Tensor:
    """What rows are once they are quantized to int8 or float8_e4m3fn, and dequantized.

    Args:
        x: `[T, K]`, with unit stride in K; K is `WIDEST` at most.
        dtype: int8 or float8_e4m3fn.
        scale: `f32[1]` for all values, `f32[K]` for those of a column, or how each row has its own.

    Returns:
        `[T, K]`, of the type of `x`.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, scale, out, dtype, None)
    return out


def _launch(x: Tensor, scale: Tensor | RowScale, out: Tensor, dtype: torch.dtype, scales: Tensor | None) -> None:
    """Write what rows are once rounded to `out`, of its type; the scale of each row to `scales` if that is given."""
    rows, width = x.shape
    own = scale if isinstance(scale, RowScale) else RowScale(0.0, 0.0, 0.0)
    given = scale if isinstance(scale, Tensor) else out if scales is None else scales  # a pointer may be unread
    block = triton.next_power_of_2(width)
    with torch.cuda.device_of(x):
        _round_rows[(rows,)](
            x, given, out, x.stride(0), *own, WIDTH=width, BLOCK=block, OWN=isinstance(scale, RowScale),
            COLUMNS=isinstance(scale, Tensor) and scale.numel() > 1, FP8=dtype is torch.float8_e4m3fn,
            NARROW=out.dtype.itemsize == 1, num_warps=min(16, max(1, block // 512)),
        )  # fmt: skip


@triton.jit
def _round_rows(
    x, scales, out, stride, factor, least, most,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, OWN: tl.constexpr, COLUMNS: tl.constexpr, FP8: tl.constexpr,
    NARROW: tl.constexpr,
):  # fmt: skip
    """One row a program; `scales` is read unless each row has its own scale, and written then if `NARROW`."""
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
        q = quantized(values, scale, 0.0, FP8_BITS, tl.uint8)
    else:
        q = quantized(values, scale, 0.0, INT8, tl.int8)
    if NARROW:
        tl.store(out + row * WIDTH + at, q, mask=inside)
        if OWN:
            tl.store(scales + row, scale)
    else:
        if FP8:
            rounded = widened(q, 0.0, FP8_BITS, tl.float32)
        else:
            rounded = q.to(tl.float32)
        tl.store(out + row * WIDTH + at, (rounded * scale).to(out.dtype.element_ty), mask=inside)
