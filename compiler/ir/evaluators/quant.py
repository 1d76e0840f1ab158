"""What the ops of quantization compute; see `compiler.ir.evaluators.core`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compiler.ir.dtypes import DType
from compiler.ir.evaluators.core import Attrs, Sizes, evaluates

RANGES: Mapping[DType, tuple[int, int]] = {DType.i8: (-128, 127), DType.i4: (-8, 7), DType.f8e4m3: (-448, 448)}


def broadcast_blocks(scale: Tensor, shape: torch.Size) -> Tensor:
    """Scales or zero points with each one repeated for its block, so that they broadcast to `shape`."""
    for axis, (size, blocks) in enumerate(zip(shape, scale.shape, strict=True)):
        if blocks not in (1, size):
            scale = scale.repeat_interleave(size // blocks, axis)
    return scale


def quantize(x: Tensor, scale: Tensor, zero: Tensor | None, dtype: DType) -> Tensor:
    """The op `quantize`: integers as int8, f8e4m3 as torch's type. Scales are not checked."""
    low, high = RANGES[dtype]
    quotient = x.float() * broadcast_blocks(1 / scale.float(), x.shape)
    if dtype is DType.f8e4m3:
        return quotient.clamp(low, high).to(torch.float8_e4m3fn)
    rounded = quotient.round().nan_to_num(nan=0)
    if zero is not None:
        rounded = rounded + broadcast_blocks(zero, x.shape)
    return rounded.clamp(low, high).to(torch.int8)


def dequantize(q: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """The op `dequantize`, in the type of `scale`."""
    wide = q.to(scale.dtype)
    if zero is not None:
        wide = wide - broadcast_blocks(zero.to(scale.dtype), q.shape)
    return wide * broadcast_blocks(scale, q.shape)


@evaluates("quantize")
def _quantize(attrs: Attrs, sizes: Sizes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise ValueError("a scale is not a positive number: what it was computed from holds NaN or infinite values")
    return quantize(x, scale, zero, attrs["dtype"])


@evaluates("dequantize")
def _dequantize(attrs: Attrs, sizes: Sizes, q: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    return dequantize(q, scale, zero)


@evaluates("amax")
def _amax(attrs: Attrs, sizes: Sizes, x: Tensor) -> Any:
    return x.abs().amax(attrs["axis"], keepdim=True)
