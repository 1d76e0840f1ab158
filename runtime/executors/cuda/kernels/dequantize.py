"""Rows of a quantized weight in the type of the activations, for products with many rows."""

import triton
import triton.language as tl

from runtime.executors.cuda.kernels.skinny import decoded
from runtime.executors.cuda.kernels.unpacking import int4_values


@triton.jit
def dequantize(
    w, scale, zero, out, first, size, N, K, group,
    FORM: tl.constexpr, ZERO: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """Rows `first` to `first + size` of a weight as `out [size, K]`; `BK` is a chunk of int4, else any.

    See `skinny` for how the weight is stored.
    """
    r = tl.program_id(0) * BN + tl.arange(0, BN)
    alive = r < size
    n = first + tl.minimum(r, size - 1)
    X: tl.constexpr = out.dtype.element_ty
    block = tl.program_id(1)
    if FORM == "int4":
        HALF: tl.constexpr = BK // 2
        lane = tl.arange(0, HALF)
        rows = w + (tl.cast(block, tl.int64) * N + n.to(tl.int64))[:, None] * HALF
        q = tl.load(rows + lane[None, :])
        kk = block * BK + lane
        offset = tl.full((BN, HALF), 8.0, X if NATIVE else tl.float32)
        low, high = int4_values(q, offset, X, NATIVE)
        _store(low, kk, zero, scale, out, r, n, alive, N, K, group, ZERO)
        _store(high, kk + HALF, zero, scale, out, r, n, alive, N, K, group, ZERO)
    else:
        kk = block * BK + tl.arange(0, BK)
        inside = kk < K
        q = tl.load(w + n.to(tl.int64)[:, None] * K + kk[None, :], mask=inside[None, :], other=0)
        value = decoded(q, zero, n, N, FORM, False, True, X, NATIVE)
        _store(value, kk, zero, scale, out, r, n, alive, N, K, group, ZERO)


@triton.jit
def _store(value, kk, zero, scale, out, r, n, alive, N, K, group, ZERO: tl.constexpr):
    mask = alive[:, None] & (kk < K)[None, :]
    at = (kk // group)[None, :] * tl.cast(N, tl.int64) + n[:, None]
    wide = value.to(tl.float32)
    if ZERO:
        wide -= tl.load(zero + at, mask=mask, other=0).to(tl.float32)
    wide *= tl.load(scale + at, mask=mask, other=0.0)
    tl.store(out + r.to(tl.int64)[:, None] * K + kk[None, :], wide.to(out.dtype.element_ty), mask=mask)
