"""Products of quantized weights with tiles of rows: `y[m, n] = act(sum_k x[m, k] w[n, k] + bias[n])`.

Matrix instructions want a value of the weight in a certain thread. Read in the order in which weights are stored (see
`skinny`), each thread would have to pick two bytes here and two there. So each thread reads up to 16 bytes that lie
together, and takes them for the columns that the instructions want of it: the columns of the weight are in another
order then, within blocks of `U`, and those of the activations are brought into the same one before, by `arranged`.

Column `16 b + 8 h + 2 t + l` of a block, as instructions count, is column `U / 4 t + 4 b + 2 h + l` as stored: `t` is
one of four threads, `b` an instruction, `h` and `l` are 0 or 1.
"""

import triton
import triton.language as tl

from runtime.executors.cuda.kernels.skinny import finished, multiplied, offsets, row_values, settled
from runtime.executors.cuda.kernels.unpacking import word_int4_values, word_values

AHEAD = tl.constexpr(4)
"""Spans ahead of the one that is computed, whose scales and zero points are fetched."""


@triton.jit(do_not_specialize=["M", "K0"])
def arranged(
    x0,
    x1,
    out,
    M,
    K,
    K0,
    stride0,
    stride1,
    PAIR: tl.constexpr,
    U: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Part of a row of `out`: activations of one input or of two, in the order of `wide`; zeros beyond row `M`."""
    row = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    u = p % U
    k = p - u + u % 8 // 2 * (U // 4) + u // 16 * 4 + u // 8 % 2 * 2 + u % 2
    if PAIR:
        x = tl.where(k < K0, x0 + row * stride0 + k, x1 + row * stride1 + (k - K0))
    else:
        x = x0 + row * stride0 + k
    mask = p < K
    tl.store(out + row * K + p, tl.load(x, mask=mask & (row < M), other=0.0), mask=mask)


@triton.jit
def ordered(v0, v1, v2, v3, BN: tl.constexpr, U: tl.constexpr):
    """The four values of each word `[BN, U / 4]`, in the order of instructions `[BN, U]`."""
    v = tl.join(tl.join(v0, v2), tl.join(v1, v3))
    v = tl.reshape(v, (BN, 4, U // 16, 2, 2))
    return tl.reshape(tl.permute(v, (0, 2, 3, 1, 4)), (BN, U))


@triton.jit
def added(
    acc, x, w, zero, at, n, wide_n, m, N, K,
    FORM: tl.constexpr, ZERO: tl.constexpr, BN: tl.constexpr, SPAN: tl.constexpr, U: tl.constexpr, CHUNK: tl.constexpr,
    EVEN_N: tl.constexpr, X: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """`acc` and the products of `SPAN` columns from `at` on, which share their zero point."""
    word = tl.arange(0, U // 4)
    if FORM == "int4":
        tl.static_assert(CHUNK == 2 * U)
        b = x + tl.arange(0, CHUNK)[:, None] + m[None, :] * K
        offset = offsets(zero, n, N, ZERO, EVEN_N, X, NATIVE)[:, None]
        for c in tl.static_range(SPAN // CHUNK):
            chunk = (at // CHUNK + c) * tl.cast(N, tl.int64)
            q = tl.load(w + chunk * (U // 4) + wide_n[:, None] * (U // 4) + word[None, :])
            v0, v1, v2, v3, v4, v5, v6, v7 = word_int4_values(q, offset, ZERO, X, NATIVE)
            low, high = ordered(v0, v1, v2, v3, BN, U), ordered(v4, v5, v6, v7, BN, U)
            a = tl.reshape(tl.permute(tl.join(low, high), (0, 2, 1)), (BN, CHUNK))
            acc = multiplied(a, tl.load(b + (at + c * CHUNK)), acc, NATIVE)
    else:
        b = x + tl.arange(0, U)[:, None] + m[None, :] * K
        for u in tl.static_range(SPAN // U):
            column = at + u * U
            q = tl.load(w + wide_n[:, None] * (K // 4) + (column // 4 + word)[None, :])
            v0, v1, v2, v3 = word_values(q, FORM, X, NATIVE)
            a = ordered(v0, v1, v2, v3, BN, U)
            if ZERO:
                a = a - row_values(zero, n, N, EVEN_N).to(a.dtype)[:, None]
            acc = multiplied(a, tl.load(b + column), acc, NATIVE)
    return acc


@triton.jit
def fetched(pointers, NATIVE: tl.constexpr):
    """0 for each address, at which the second-level cache is told to read."""
    if NATIVE:
        none = tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [pointers.to(tl.uint64)], dtype=tl.int32, is_pure=True,
            pack=1,
        )  # fmt: skip
    else:
        none = tl.zeros(pointers.shape, tl.int32)
    return none


@triton.jit(do_not_specialize=["M"])
def wide(
    x, w, scale, zero, bias, y,
    M, N, K, part_k,
    FORM: tl.constexpr, SCALE: tl.constexpr, ZERO: tl.constexpr, GROUP: tl.constexpr,
    BIAS: tl.constexpr, ACT: tl.constexpr, ACT_FROM: tl.constexpr, ACT_TO: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPAN: tl.constexpr, U: tl.constexpr, CHUNK: tl.constexpr,
    WHOLE: tl.constexpr, EVEN_N: tl.constexpr, NATIVE: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """A tile of `BM` rows and `BN` columns of the result, summed over `part_k` columns of the weight.

    Part `s` of the sum goes to `y[s]`, which is `[M, N]`. The weight `w` is in words of 32 bits, and `x` is what
    `arranged` gave, with space for whole tiles. `SPAN` columns of a step of `BK` share their scale; where several
    steps do, `WHOLE` columns are summed up before they are scaled, else that is 0. The other parameters are those of
    `skinny`.
    """
    across = tl.cdiv(M, BM)  # tiles that read the same rows of the weight, one after the other
    tile = tl.program_id(0)
    part = tl.program_id(1)
    n = tile // across * BN + tl.arange(0, BN)
    m = tile % across * BM + tl.arange(0, BM)
    wide_n = (n if EVEN_N else tl.minimum(n, N - 1)).to(tl.int64)
    start = part * part_k
    X: tl.constexpr = x.dtype.element_ty
    first = (start // GROUP) * N if GROUP else 0
    acc = tl.zeros((BN, BM), tl.float32)
    if WHOLE:
        for begin in range(0, part_k if NATIVE else PART, WHOLE):
            g = ((start + begin) // GROUP) * N
            p = tl.zeros((BN, BM), tl.float32)
            for step in range(0, WHOLE, BK):
                p = added(p, x, w, zero + g if ZERO else zero, start + begin + step, n, wide_n, m, N, K,
                          FORM, ZERO, BN, BK, U, CHUNK, EVEN_N, X, NATIVE)  # fmt: skip
                p = settled(p, NATIVE)
            acc += p * row_values(scale + g, n, N, EVEN_N)[:, None]
    for step in range(0, 0 if WHOLE else part_k if NATIVE else PART, BK):
        for s in tl.static_range(BK // SPAN):
            at = start + step + s * SPAN
            g = (at // GROUP) * N if GROUP else 0
            if SCALE == 2:
                p = tl.zeros((BN, BM), tl.float32)
            else:
                p = acc
            where = n
            if SCALE == 2:
                later = tl.minimum(at + AHEAD * SPAN, K - SPAN) // GROUP * N + (n if EVEN_N else tl.minimum(n, N - 1))
                where = n + fetched(scale + later, NATIVE)
                if ZERO:
                    where += fetched(zero + later, NATIVE)
            p = added(p, x, w, zero + g if ZERO else zero, at, where, wide_n, m, N, K,
                      FORM, ZERO, BN, SPAN, U, CHUNK, EVEN_N, X, NATIVE)  # fmt: skip
            if SCALE == 2:
                acc += p * row_values(scale + g, where, N, EVEN_N)[:, None]
            else:
                acc = settled(p, NATIVE)
    if SCALE == 1:
        acc = acc * row_values(scale + first, n, N, EVEN_N)[:, None]
    if BIAS:
        acc += row_values(bias, n, N, EVEN_N)[:, None]
    acc = finished(acc, n[:, None], ACT, ACT_FROM, ACT_TO)
    pointers = y + part * (tl.cast(M, tl.int64) * N) + m[None, :] * tl.cast(N, tl.int64) + n[:, None]
    alive = m[None, :] < M
    if EVEN_N:
        tl.store(pointers, acc.to(y.dtype.element_ty), mask=alive)
    else:
        tl.store(pointers, acc.to(y.dtype.element_ty), mask=alive & (n[:, None] < N))
