"""Columns of large tensors, elementwise: activations in place, and inputs side by side.

Torch's own kernels do this to rows that lie apart an element at a time; these read and write whole cache lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.executors.cuda.kernels.skinny import activated

_WIDE = 2048
"""Elements of a program."""


def activate_columns(y: Tensor, activation: str) -> None:
    """Apply an activation in place.

    Args:
        y: `[T, N]`, whose elements of a row are contiguous.
        activation: its name, as `skinny.activated` knows it.
    """
    _each_tile(_activate, y, y, ACT=activation)


def side_by_side(xs: Sequence[Tensor]) -> Tensor:
    """Tensors `[T, K_i]` of one type as one, `[T, sum K_i]`; the elements of their rows are contiguous."""
    first, *others = xs
    if not others:
        return first
    joined = torch.empty(first.shape[0], sum(x.shape[1] for x in xs), dtype=first.dtype, device=first.device)
    start = 0
    for x in xs:
        _each_tile(_copy, x, joined[:, start : start + x.shape[1]])
        start += x.shape[1]
    return joined


def _each_tile(kernel: Any, x: Tensor, y: Tensor, **constants: Any) -> None:
    rows, n = y.shape
    if n == 0 or rows == 0:
        return
    width = min(_WIDE, triton.next_power_of_2(n))
    with torch.cuda.device_of(y):
        kernel[(rows, triton.cdiv(n, width))](x, y, n, x.stride(0), y.stride(0), BN=width, **constants)


@triton.jit
def _activate(x, y, N, x_stride, y_stride, ACT: tl.constexpr, BN: tl.constexpr):
    """Part of a row of `x`, with the activation `ACT`, to the same part of `y`."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    mask = n < N
    values = tl.load(x + row * x_stride + n, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + row * y_stride + n, activated(values, ACT).to(y.dtype.element_ty), mask=mask)


@triton.jit
def _copy(x, y, N, x_stride, y_stride, BN: tl.constexpr):
    """Part of a row of `x`, to the same part of `y`."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    mask = n < N
    tl.store(y + row * y_stride + n, tl.load(x + row * x_stride + n, mask=mask), mask=mask)
