"""Products with few rows whose sums each warp computes a slice of; see `skinny` for how weights are stored.

A step of `BK` columns is as many slices as a program has warps. A warp multiplies the columns of its slice by all rows
of the weight that the program has, from registers that hold what it reads in the order of the instructions, and in the
end the sums of all warps are added up. So few rows of a weight keep many warps busy, and values of 4 and 8 bits are
made floating-point where the instructions want them.
"""

import triton
import triton.language as tl

from runtime.executors.cuda.kernels.skinny import finished, row_values
from runtime.executors.cuda.kernels.unpacking import float8_value, int4_values, int8_value


@triton.jit
def slice_values(pointer, group, n, N, GIVEN: tl.constexpr, DEFAULT: tl.constexpr):
    """A parameter of each slice's group and each row of the weight, `[SLICES, BN, 1]` in float32."""
    at = group[:, None] * N + tl.minimum(n, N - 1)[None, :]
    if GIVEN:
        v = tl.load(pointer + at).to(tl.float32)
    else:
        v = tl.full(at.shape, DEFAULT, tl.float32)
    return v[:, :, None]


@triton.jit(do_not_specialize=["M"])
def sliced(
    x0, x1, w, scale, zero, bias, y,
    M, N, K, K0, stride0, stride1, part_k,
    FORM: tl.constexpr, PAIR: tl.constexpr, SCALE: tl.constexpr, ZERO: tl.constexpr, GROUP: tl.constexpr,
    BIAS: tl.constexpr, ACT: tl.constexpr, ACT_FROM: tl.constexpr, ACT_TO: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SLICES: tl.constexpr,
    EVEN_N: tl.constexpr, NATIVE: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """A tile of `BN` columns of the result, summed over `part_k` columns of the weight.

    Part `s` of the sum goes to `y[s]`, which is `[M, N]`. All columns of a slice share their scale.
    """
    WIDTH: tl.constexpr = BK // SLICES
    X: tl.constexpr = x0.dtype.element_ty
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    part = tl.program_id(1)
    wide = (n if EVEN_N else tl.minimum(n, N - 1)).to(tl.int64)
    m = tl.arange(0, BM)
    alive = m[None, None, :] < M
    piece = tl.arange(0, SLICES)
    start = part * part_k
    acc = tl.zeros((SLICES, BN, BM), tl.float32)
    group = (start + piece * WIDTH) // GROUP if GROUP else piece * 0
    s = slice_values(scale, group, n, N, SCALE > 0, 1.0)
    z = slice_values(zero, group, n, N, ZERO, 0.0)
    for step in range(0, part_k if NATIVE else PART, BK):
        k = start + step
        columns = k + piece * WIDTH
        if PAIR:
            x = tl.where(k < K0, x0, x1 - K0)
            stride = tl.where(k < K0, stride0, stride1)
        else:
            x = x0
            stride = stride0
        now_s = s
        if SCALE == 2:
            # The scales of the next step are under way while this one is computed.
            after = tl.minimum(columns + BK, K - WIDTH) // GROUP
            s = slice_values(scale, after, n, N, True, 1.0)
            if ZERO:
                z = slice_values(zero, columns // GROUP, n, N, True, 0.0)
        if FORM == "int4":
            HALF: tl.constexpr = WIDTH // 2
            lane = tl.arange(0, HALF)
            at = ((columns // WIDTH).to(tl.int64)[:, None] * N + wide[None, :]) * HALF
            q = tl.load(w + at[:, :, None] + lane[None, None, :], eviction_policy="evict_first")
            b = x + (columns[:, None] + lane[None, :])[:, :, None] + m[None, None, :] * stride
            offset = z + 8.0
            low, high = int4_values(q, offset.to(X) if NATIVE else offset, X, NATIVE)
            p = multiplied3(low, tl.load(b, mask=alive, other=0.0), acc, SCALE == 2, NATIVE)
            p = multiplied3(high, tl.load(b + HALF, mask=alive, other=0.0), p, False, NATIVE)
        else:
            lane = tl.arange(0, WIDTH)
            kk = columns[:, None] + lane[None, :]
            q = tl.load(w + (wide[None, :] * K)[:, :, None] + kk[:, None, :], eviction_policy="evict_first")
            b = tl.load(x + kk[:, :, None] + m[None, None, :] * stride, mask=alive, other=0.0)
            if FORM == "int8":
                a = int8_value(q, X, NATIVE)
                if ZERO:
                    a = a - z.to(a.dtype)
            elif FORM == "float8":
                a = float8_value(q, X, NATIVE)
            else:
                a = q
            p = multiplied3(a, b, acc, SCALE == 2, NATIVE)
        if SCALE == 2:
            acc += p * now_s
        else:
            acc = p
    if SCALE == 1:
        acc = acc * s
    total = tl.sum(acc, 0)
    if BIAS:
        total += row_values(bias, n, N, EVEN_N)[:, None]
    total = finished(total, n[:, None], ACT, ACT_FROM, ACT_TO)
    pointers = y + part * (tl.cast(M, tl.int64) * N) + m[None, :] * tl.cast(N, tl.int64) + n[:, None]
    tl.store(pointers, total.to(y.dtype.element_ty), mask=(m[None, :] < M) & (n[:, None] < N))


@triton.jit
def multiplied3(a, b, acc, ANEW: tl.constexpr, NATIVE: tl.constexpr):
    """The products of matrices `a` and `b` in float32, added to `acc` or, if `ANEW`, to nothing."""
    if ANEW:
        acc = tl.zeros(acc.shape, tl.float32)
    if not NATIVE:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")
