"""What attention kernels do with single values: rotary embedding, and what a cache holds of them."""

from __future__ import annotations

import triton
import triton.language as tl

import runtime.executors.cuda.kernels.interpreted  # noqa: F401 - it mends the interpreter of kernels
from runtime.executors.cuda.kernels.unpacking import int8_value

# How the values of a pool are stored. INT8_PACKED is read by instructions of a GPU for four values at once; FP8_BITS is
# for GPUs and interpreters that cannot convert such numbers.
PLAIN, INT8, INT8_PACKED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
FP8, FP8_BITS = tl.constexpr(3), tl.constexpr(4)


@triton.jit
def load_rotated(
    base, angles, cos, sin, live, D: tl.constexpr, DP: tl.constexpr, R: tl.constexpr, INTERLEAVED: tl.constexpr
):  # fmt: skip
    """Heads `[N, DP]` of `D` values, the first `R` of them turned, in their type; the rest is 0.

    Args:
        base: pointers to the first values of the heads, `[N, 1]`.
        angles: where the angles of their tokens begin in `cos` and `sin`; broadcasts to `[N, 1]`.
        cos: f32 cosines; not read if `R` is 0.
        sin: f32 sines.
        live: which heads to load, `[N, 1]`; the rest is 0.
        D: how many values a head has.
        DP: the power of two from `D` on.
        R: how many values are turned, in pairs.
        INTERLEAVED: whether a pair is `(2 i, 2 i + 1)` and not `(i, i + R/2)`.
    """
    d = tl.arange(0, DP)[None, :]
    x = tl.load(base + d, mask=live & (d < D), other=0.0)
    if R > 0:
        wide = x.to(tl.float32)
        if INTERLEAVED:
            pair = tl.arange(0, DP // 2)[None, :]
            turning = live & (pair < R // 2)
            c = tl.load(cos + angles + pair, mask=turning, other=1.0)
            s = tl.load(sin + angles + pair, mask=turning, other=0.0)
            a, b = tl.split(tl.reshape(wide, (wide.shape[0], DP // 2, 2)))
            turned = tl.reshape(tl.join(a * c - b * s, b * c + a * s), wide.shape)
        else:
            # Loads of neighbours, from either side, and not of single values.
            lower = live & (d < R // 2)
            upper = live & (d >= R // 2) & (d < R)
            after = tl.load(base + d + R // 2, mask=lower, other=0.0).to(tl.float32)
            before = tl.load(base + d - R // 2, mask=upper, other=0.0).to(tl.float32)
            other = tl.where(d < R // 2, -after, before)
            c = tl.load(cos + angles + d, mask=lower, other=1.0)
            c = tl.where(d < R // 2, c, tl.load(cos + angles + d - R // 2, mask=upper, other=1.0))
            s = tl.load(sin + angles + d, mask=lower, other=0.0)
            s = tl.where(d < R // 2, s, tl.load(sin + angles + d - R // 2, mask=upper, other=0.0))
            turned = wide * c + other * s
        x = turned.to(x.dtype)
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
    elif FORM == INT8 or FORM == INT8_PACKED:  # noqa: SIM109 - kernels know no tuples
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
    elif FORM == INT8_PACKED:
        HALF: tl.constexpr = tl.float16 if DTYPE == tl.float32 else DTYPE
        result = int8_value(x, HALF, True).to(DTYPE) - zero.to(DTYPE)
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
    """The scales or zero points of heads as f32; `DEFAULT` if there are none.

    Args:
        values: one for each key head, or one for all.
        head: which key heads.
        STRIDE: 1, or 0 if there is one for all; -1 if there is none.
        DEFAULT: what to use if there is none.
    """
    if STRIDE < 0:
        parameter = (head * 0).to(tl.float32) + DEFAULT
    else:
        parameter = tl.load(values + head * STRIDE).to(tl.float32)
    return parameter
