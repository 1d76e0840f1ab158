"""Products of int8 activations with int8 weights in tiles of rows, whose sums are scaled and finished in registers.

Both sides are multiplied as they are stored. Sums are int32, and exact, as long as one scale is for all columns.
"""

import triton
import triton.language as tl

from runtime.executors.cuda.kernels.skinny import finished, row_scales, row_values


@triton.jit
def summed_up(sums, x, w, start, SIZE, BK: tl.constexpr):
    """`sums` and the products of `SIZE` columns from `start` on, by pointers `x [BM, BK]` and `w [BK, BN]`."""
    for step in range(0, SIZE, BK):
        sums = tl.dot(tl.load(x + (start + step)), tl.load(w + (start + step)), sums, out_dtype=tl.int32)
    return sums


@triton.jit(do_not_specialize=["M"])
def wide_rounded(
    x0, x1, scale0, scale1, w, weight0, weight1, bias, y,
    M, N, K, K0, stride0, stride1, apart0, apart1, part_k, whole_k,
    PAIR: tl.constexpr, WHOLE: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr, ACT_FROM: tl.constexpr,
    ACT_TO: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_N: tl.constexpr,
    NATIVE: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """A tile of `BM` rows and `BN` columns of the result, summed over `part_k` columns of the weight `[N, K]`.

    Part `s` of the sum goes to `y[s]`, which is `[M, N]`. `weight0` and `weight1` are the scales of the rows of the
    weight for the columns of each input, float32 `[N]`. If there is a `PAIR` of inputs, each `whole_k` columns of a
    part are of one of them; under Triton's interpreter, that is `WHOLE`. The other parameters are those of `skinny`.
    """
    across = tl.cdiv(M, BM)  # tiles that read the same rows of the weight, one after the other
    tile = tl.program_id(0)
    part = tl.program_id(1)
    n = tile // across * BN + tl.arange(0, BN)
    m = tile % across * BM + tl.arange(0, BM)
    lane = tl.arange(0, BK)
    start = part * part_k
    # Rows beyond the last are read as the last, and not stored.
    row = tl.minimum(m, M - 1).to(tl.int64)[:, None]
    column = (n if EVEN_N else tl.minimum(n, N - 1)).to(tl.int64)[None, :]
    w += column * K + lane[:, None]
    first = x0 + row * stride0 + lane[None, :]
    if PAIR:
        second = x1 + row * stride1 + lane[None, :] - K0
        acc = tl.zeros((BM, BN), tl.float32)
        for begin in range(0, part_k if NATIVE else PART, whole_k if NATIVE else WHOLE):
            at = start + begin
            x = tl.where(at < K0, first, second)
            sums = summed_up(tl.zeros((BM, BN), tl.int32), x, w, at, whole_k if NATIVE else WHOLE, BK)
            s = row_scales(tl.where(at < K0, scale0, scale1), m, tl.where(at < K0, apart0, apart1), M, 1.0)
            of_weight = row_values(tl.where(at < K0, weight0, weight1), n, N, EVEN_N)
            acc += sums.to(tl.float32) * s[:, None] * of_weight[None, :]
    else:
        sums = summed_up(tl.zeros((BM, BN), tl.int32), first, w, start, part_k if NATIVE else PART, BK)
        acc = sums.to(tl.float32) * row_scales(scale0, m, apart0, M, 1.0)[:, None]
        acc = acc * row_values(weight0, n, N, EVEN_N)[None, :]
    if BIAS:
        acc += row_values(bias, n, N, EVEN_N)[None, :]
    acc = finished(acc, n[None, :], ACT, ACT_FROM, ACT_TO)
    pointers = y + part * (tl.cast(M, tl.int64) * N) + m[:, None] * tl.cast(N, tl.int64) + n[None, :]
    alive = m[:, None] < M
    if EVEN_N:
        tl.store(pointers, acc.to(y.dtype.element_ty), mask=alive)
    else:
        tl.store(pointers, acc.to(y.dtype.element_ty), mask=alive & (n[None, :] < N))
