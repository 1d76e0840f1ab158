"""What attention kernels do with single values: rotary embedding, and what a cache holds of them."""

from __future__ import annotations

import triton
import triton.language as tl

import runtime.executors.cuda.kernels.interpreted  # noqa: F401 - it mends the interpreter of kernels

# How the values of a pool are stored. FP8_BITS is for GPUs and interpreters that cannot convert such numbers.
PLAIN, INT8, FP8, FP8_BITS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def load_rotated(base, angles, cos, sin, d, mask, R: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Values at `base + d`, the first `R` of a head turned by the angles at `angles` of the tables, in their type.

    Args:
        base: pointers to the first value of heads, which broadcast against `d`.
        angles: where the angles of their tokens begin in `cos` and `sin`, which broadcast likewise.
        cos: f32 cosines; not read if `R` is 0.
        sin: f32 sines.
        d: which values of a head.
        mask: what to load; the rest is 0.
        R: how many values are turned, in pairs.
        INTERLEAVED: whether a pair is `(2 i, 2 i + 1)` and not `(i, i + R/2)`.
    """
    x = tl.load(base + d, mask=mask, other=0.0)
    if R > 0:
        if INTERLEAVED:
            partner = d ^ 1
            pair = d // 2
            first = (d % 2) == 0
        else:
            first = d < R // 2
            partner = tl.where(first, d + R // 2, d - R // 2)
            pair = tl.where(first, d, d - R // 2)
        turning = mask & (d < R)
        other = tl.load(base + partner, mask=turning, other=0.0).to(tl.float32)
        c = tl.load(cos + angles + pair, mask=turning, other=1.0)
        s = tl.load(sin + angles + pair, mask=turning, other=0.0)
        x = (x.to(tl.float32) * c + tl.where(first, -other, other) * s).to(x.dtype)
    return x


@triton.jit
def quantized(x, scale, zero, FORM: tl.constexpr, DTYPE: tl.constexpr):
    """What a pool holds of values, as the op `quantize` computes it.

    Args:
        x: the values.
        scale: the f32 scale of each, which broadcasts.
        zero: the f32 zero point of each; 0 without one.
        FORM: how the pool stores them.
        DTYPE: the element type of the pool; fp8 as bytes.
    """
    if FORM == PLAIN:
        result = x.to(DTYPE)
    elif FORM == INT8:
        y = x.to(tl.float32) * tl.div_rn(1.0, scale)
        y = tl.where(y == y, tl.minimum(tl.maximum(y, -1024.0), 1024.0), 0.0)
        # The sum has no bits for a fraction: it is rounded to the nearest integer, ties to even.
        whole = (y + 12582912.0) - 12582912.0
        result = tl.minimum(tl.maximum(whole + zero, -128.0), 127.0).to(tl.int8)
    else:
        result = _fp8_bits(x.to(tl.float32) * tl.div_rn(1.0, scale))
    return result


@triton.jit
def _fp8_bits(y):
    """The bytes of f32 values as float8_e4m3fn, clamped, rounded to nearest, ties to even."""
    size = tl.minimum(tl.abs(y), 448.0)
    bits = size.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - 960
    # Below the smallest normal number, 2^-6, values are multiples of 2^-9, which is the last bit of numbers near 2^14.
    small = (size + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    code = tl.where(size < 0.015625, small, normal)
    code = tl.where(y == y, code, 0x7F)
    return (code | ((y.to(tl.int32, bitcast=True) >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def widened(x, zero, FORM: tl.constexpr, DTYPE: tl.constexpr):
    """What was `quantized` in units of its scale, less the zero point; exact in 16 bits.

    Args:
        x: what a pool holds.
        zero: the zero point, which broadcasts.
        FORM: how the pool stores it.
        DTYPE: the wanted floating-point type.
    """
    if FORM == INT8:
        result = x.to(DTYPE) - zero.to(DTYPE)
    elif FORM == FP8:
        result = x.to(tl.float8e4nv, bitcast=True).to(DTYPE)
    elif FORM == FP8_BITS:
        bits = x.to(tl.uint16)
        half = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True) * 256.0
        result = tl.where((bits & 0x7F) == 0x7F, float("nan"), half.to(tl.float32)).to(DTYPE)
    else:
        result = x.to(DTYPE)
    return result


@triton.jit
def head_parameter(values, head, STRIDE: tl.constexpr, DEFAULT: tl.constexpr):
    """The scale or zero point of a head as f32; `DEFAULT` if there is none.

    Args:
        values: one for each key head, or one for all.
        head: which key head.
        STRIDE: 1, or 0 if there is one for all; -1 if there is none.
        DEFAULT: what to use if there is none.
    """
    if STRIDE < 0:
        parameter = tl.full((), DEFAULT, tl.float32)
    else:
        parameter = tl.load(values + head * STRIDE).to(tl.float32)
    return parameter
