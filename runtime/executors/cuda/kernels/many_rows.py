"""Products with many rows, by cuBLAS: of quantized weights by way of a buffer that holds some rows of the weight.

Where weights and activations are 8-bit numbers of one type, these are multiplied, and the sums scaled afterwards, if
torch does not do both at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.executors.cuda.kernels.columns import side_by_side
from runtime.executors.cuda.kernels.dequantize import dequantize
from runtime.executors.cuda.kernels.device import multiprocessors
from runtime.executors.cuda.kernels.rounding import Rounded, adds_float8, widened_rows
from runtime.executors.cuda.kernels.weights import DENSE, JoinedWeight

_BUFFER_BYTES = 1 << 26
_LEAST_COLUMNS = 1024  # of the result that are computed at once, however many rows there are
_TILE = 128  # rows and columns that cuBLAS computes at once
_STEP = 16
"""What rows and columns of a weight are multiples of, where cuBLAS multiplies 8-bit numbers."""


def multiply_many(xs: Sequence[Tensor | Rounded], weight: JoinedWeight, bias: Tensor | None, y: Tensor) -> None:
    """Write `sum_i x_i W_i^T + bias` to `y [T, N]`, whose type may be wider than that of the activations.

    Args:
        xs: the inputs, all of them rounded or none.
        weight: the weight.
        bias: `[N]`, or None.
        y: the result.
    """
    rounded = [x for x in xs if isinstance(x, Rounded)]
    if rounded and _multiplies_rounded(weight, y.device):
        if not (len(rounded) == 1 and _multiply_scaled(rounded[0], weight, bias, y)):
            _multiply_rounded(rounded, weight, bias, y)
        return
    wide = [widened_rows(x, weight.dtype) if isinstance(x, Rounded) else x for x in xs]
    x = side_by_side(wide)
    if weight.form == DENSE:
        _multiply(x, weight.q, bias, y)
        return
    buffer = _buffer(y.device, weight.dtype)
    step = max(1, buffer.numel() // weight.k)
    for first in range(0, weight.rows, step):
        size = min(step, weight.rows - first)
        tile = buffer[: size * weight.k].view(size, weight.k)
        dequantize_rows(weight, first, tile)
        here = slice(first, first + size)
        _multiply(x, tile, None if bias is None else bias[here], y[:, here])


def dequantize_rows(weight: JoinedWeight, first: int, out: Tensor) -> None:
    """Write rows of a quantized weight, from `first` on, to `out [size, K]`."""
    size, k = out.shape
    bn, bk = (32, weight.chunk) if weight.chunk else (16, 256)
    grid = (triton.cdiv(size, bn), triton.cdiv(k, bk))
    q, scale, zero = weight.q, weight.scale, weight.q if weight.zero is None else weight.zero
    with torch.cuda.device_of(out):
        dequantize[grid](
            q, scale, zero, out, first, size, weight.rows, k, weight.group,
            FORM=weight.form, ZERO=weight.zero is not None, BN=bn, BK=bk, NATIVE=not triton.knobs.runtime.interpret,
        )  # fmt: skip


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
    if y.dtype is x.dtype and bias is not None:
        torch.addmm(bias, x, weight.t(), out=y)
    elif y.dtype is x.dtype:
        torch.mm(x, weight.t(), out=y)
    elif y.device.type == "cuda":
        y.copy_(torch.mm(x, weight.t(), out_dtype=y.dtype))
    else:
        torch.mm(x.to(y.dtype), weight.t().to(y.dtype), out=y)


@cache
def _buffer(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.empty(_BUFFER_BYTES // dtype.itemsize, dtype=dtype, device=device)


def _multiplies_rounded(weight: JoinedWeight, device: torch.device) -> bool:
    fits = weight.whole and not any(size % _STEP for size in (weight.rows, *weight.columns))
    return fits and (weight.form == "int8" or adds_float8(device, weight.dtype))


def _multiply_scaled(x: Rounded, weight: JoinedWeight, bias: Tensor | None, y: Tensor) -> bool:
    """Write float8 products to a 16-bit `y`, scaled at once; False where torch does not, or does so slowly."""
    if weight.form != "float8" or not _scales(y.device, y.dtype, bias is not None) or not _fills(y):
        return False
    assert weight.scale is not None
    scale = x.scale if weight.unit == 1.0 else x.scale * weight.unit
    scale = scale.expand(len(y), 1).contiguous()
    q = weight.q.view(x.q.dtype).t()
    torch._scaled_mm(x.q, q, scale, weight.scale[:1], bias=bias, out_dtype=y.dtype, out=y)
    return True


def _fills(y: Tensor) -> bool:
    """Whether a result has tiles enough for half a GPU: others are better summed up in parts, and scaled later."""
    rows, n = y.shape
    return 2 * -(-rows // _TILE) * -(-n // _TILE) >= multiprocessors(y.device)


@cache
def _scales(device: torch.device, dtype: torch.dtype, bias: bool) -> bool:
    """Whether torch scales float8 products by the rows of both sides, with such a result."""
    if dtype not in (torch.float16, torch.bfloat16):
        return False
    x = torch.ones(_STEP, _STEP, device=device).to(torch.float8_e4m3fn)
    scale = torch.ones(_STEP, device=device)
    b = torch.zeros(_STEP, dtype=dtype, device=device) if bias else None
    y = torch.empty(_STEP, _STEP, dtype=dtype, device=device)
    try:
        torch._scaled_mm(x, x.t(), scale[:, None], scale[None, :], bias=b, out_dtype=dtype, out=y)
    except (RuntimeError, ValueError, NotImplementedError):
        return False
    return True


def _multiply_rounded(xs: Sequence[Rounded], weight: JoinedWeight, bias: Tensor | None, y: Tensor) -> None:
    rows = len(y)
    step = max(_LEAST_COLUMNS, _BUFFER_BYTES // (4 * rows * len(xs)) // 256 * 256)
    for first in range(0, weight.rows, step):
        here = slice(first, min(first + step, weight.rows))
        sums, scales, start = [], [], 0
        for x, columns in zip(xs, weight.columns, strict=True):
            assert weight.scale is not None
            sums.append(_sums(x.q, weight.q[here, start : start + columns]))
            scales.append(weight.scale[start // weight.group, here])
            start += columns
        _finish(sums, xs, scales, weight, None if bias is None else bias[here], y[:, here])


def _sums(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` of 8-bit numbers: int32, or of float8 (the weight as bytes) float32."""
    if x.dtype is torch.int8:
        return torch._int_mm(x, weight.t())
    one = _one(x.device)
    product = torch._scaled_mm(x, weight.view(x.dtype).t(), one, one, out_dtype=torch.float32)
    assert isinstance(product, Tensor)
    return product


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), device=device)


def _finish(
    sums: Sequence[Tensor],
    xs: Sequence[Rounded],
    scales: Sequence[Tensor],
    weight: JoinedWeight,
    bias: Tensor | None,
    y: Tensor,
) -> None:
    """Write the sums, scaled by the rows of both sides and added up, and the bias to `y`."""
    rows, n = y.shape
    s0, s1, x0, x1 = sums[0], sums[-1], xs[0].scale, xs[-1].scale
    block = 512
    with torch.cuda.device_of(y):
        _scaled_sums[(triton.cdiv(n, block), rows)](
            s0, s1, x0, x1, scales[0], scales[-1], y if bias is None else bias, y, n, y.stride(0),
            int(x0.numel() > 1), int(x1.numel() > 1), PAIR=len(sums) == 2, BIAS=bias is not None, UNIT=weight.unit,
            BN=block,
        )  # fmt: skip


@triton.jit
def _scaled_sums(
    s0, s1, x0, x1, w0, w1, bias, y, N, stride, apart0, apart1,
    PAIR: tl.constexpr, BIAS: tl.constexpr, UNIT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Part of a row of `y`: sums `s0` (and, if `PAIR`, `s1`) `[T, N]`, times scales `x` of rows and `w` of columns."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1)
    row = m.to(tl.int64)
    mask = n < N
    total = tl.load(s0 + row * N + n, mask=mask, other=0).to(tl.float32) * tl.load(x0 + m * apart0)
    total *= tl.load(w0 + n, mask=mask, other=0.0)
    if PAIR:
        second = tl.load(s1 + row * N + n, mask=mask, other=0).to(tl.float32) * tl.load(x1 + m * apart1)
        total += second * tl.load(w1 + n, mask=mask, other=0.0)
    total *= UNIT
    if BIAS:
        total += tl.load(bias + n, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + row * stride + n, total.to(y.dtype.element_ty), mask=mask)
