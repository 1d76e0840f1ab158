"""Device functions of products with few rows: `y[m, n] = act(sum_k x[m, k] w[n, k] + bias[n])`.

A decode step reads every weight once, so what counts is that reads are wide, many at once, and never wait for the
arithmetic. The weight is the side of 64 rows and more of the matrix instructions, the activations the narrow one.

The weight is `[N, K]` (`FORM` "dense", "int8", "float8"), or, of int4, bytes `[K / CHUNK, N, CHUNK / 2]`: the low half
of byte `j` is column `j` of the chunk, the high half column `j + CHUNK / 2`. Scales are float32 `[K / group, N]`, zero
points int8 of that shape. The columns may be those of two inputs, one behind the other, of which the first has `K0`.

`SCALE` says when products are scaled: 0 never, 1 at the end, by the one scale that the columns of a program share, 2
after each group of `GROUP` columns (0 if all columns are one). `NATIVE` is false under Triton's interpreter, which has
no instructions and no bfloat16 product, and wants the bounds of a loop (`PART`, which is `part_k`) as constants.

`ROUNDED` activations are int8, or float8 as such or, where there are no products of those, as bytes; each row of an
input has its scale, float32 at `scale0` and `scale1`, `apart0` and `apart1` elements apart, in units of `UNIT`.
"""

import triton
import triton.language as tl

from runtime.executors.cuda.kernels.unpacking import float8_value, int4_values, int8_value


@triton.jit
def activated(v, ACT: tl.constexpr):
    """An activation of float32 values."""
    if ACT == "relu":
        a = tl.maximum(v, 0.0)
    elif ACT == "gelu":
        a = 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))
    elif ACT == "gelu_tanh":
        # tanh(u) is 2 sigmoid(2 u) - 1.
        a = v * tl.sigmoid(1.5957691216057308 * (v + 0.044715 * v * v * v))
    else:
        tl.static_assert(ACT == "silu")
        a = v * tl.sigmoid(v)
    return a


@triton.jit
def finished(v, n, ACT: tl.constexpr, ACT_FROM: tl.constexpr, ACT_TO: tl.constexpr):
    """The activation, applied in columns from `ACT_FROM` to `ACT_TO`."""
    if ACT is not None:
        v = tl.where((n >= ACT_FROM) & (n < ACT_TO), activated(v, ACT), v)
    return v


@triton.jit
def loaded(pointers, mask, MASKED: tl.constexpr):
    """Values that this program alone reads, and once; zeros outside of the mask."""
    if MASKED:
        v = tl.load(pointers, mask=mask, other=0, eviction_policy="evict_first")
    else:
        v = tl.load(pointers, eviction_policy="evict_first")
    return v


@triton.jit
def multiplied(a, b, acc, NATIVE: tl.constexpr):
    """`a @ b + acc` in float32."""
    if not NATIVE:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def settled(acc, NATIVE: tl.constexpr):
    """`acc`, the result of a step, once the matrix instructions of the step have ended.

    These read registers that the next step writes to. Triton would let them run on beyond the step, and nothing holds
    the writes back then; a use of their result, if only by no instruction, makes the step wait.
    """
    if NATIVE:
        acc = tl.inline_asm_elementwise("", "=r,0", [acc], dtype=tl.float32, is_pure=False, pack=1)
    return acc


@triton.jit
def rounded_product(a, b, acc, C: tl.constexpr, NATIVE: tl.constexpr):
    """`a @ b + acc` of 8-bit numbers: int32, or, of float8, float32 as far as sums beyond those of a tile go."""
    if C == tl.int8:
        p = tl.dot(a, b, acc, out_dtype=tl.int32)
    elif C == tl.uint8:
        a = float8_value(a, tl.float16, NATIVE)
        b = float8_value(b, tl.float16, NATIVE)
        p = multiplied(a, b, acc, NATIVE)
    else:
        p = acc + tl.dot(a, b)
    return p


@triton.jit
def row_scales(pointer, m, apart, M, UNIT: tl.constexpr):
    """The scale of each row of activations."""
    return tl.load(pointer + m * apart, mask=m < M, other=0.0) * UNIT


@triton.jit
def row_values(pointer, n, N, EVEN_N: tl.constexpr):
    """One value for each row of the weight, as float32."""
    if EVEN_N:
        v = tl.load(pointer + n)
    else:
        v = tl.load(pointer + n, mask=n < N, other=0)
    return v.to(tl.float32)


@triton.jit
def offsets(zero, n, N, ZERO: tl.constexpr, EVEN_N: tl.constexpr, X: tl.constexpr, NATIVE: tl.constexpr):
    """What is stored with int4 zero points, as `int4_values` wants it."""
    if ZERO:
        o = row_values(zero, n, N, EVEN_N) + 8.0
    else:
        o = tl.full(n.shape, 8.0, tl.float32)
    return o.to(X) if NATIVE else o


@triton.jit
def decoded(q, zero, n, N, FORM: tl.constexpr, ZERO: tl.constexpr, EVEN_N: tl.constexpr, X: tl.constexpr,
            NATIVE: tl.constexpr):  # fmt: skip
    """A tile of a weight `[N, K]` as `X`, without its scale."""
    if FORM == "int8":
        v = int8_value(q, X, NATIVE)
        if ZERO:
            v = v - row_values(zero, n, N, EVEN_N).to(v.dtype)[:, None]
    elif FORM == "float8":
        v = float8_value(q, X, NATIVE)
    else:
        v = q
    return v


@triton.jit(do_not_specialize=["M"])
def skinny(
    x0, x1, scale0, scale1, w, scale, zero, bias, y,
    M, N, K, K0, stride0, stride1, apart0, apart1, part_k,
    FORM: tl.constexpr, PAIR: tl.constexpr, SCALE: tl.constexpr, ZERO: tl.constexpr, GROUP: tl.constexpr,
    ROUNDED: tl.constexpr, UNIT: tl.constexpr,
    BIAS: tl.constexpr, ACT: tl.constexpr, ACT_FROM: tl.constexpr, ACT_TO: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SUB: tl.constexpr, CHUNK: tl.constexpr, SAME: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, NATIVE: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """A tile of `BN` columns of the result, summed over `part_k` columns of the weight, by matrix instructions.

    Part `s` of the sum goes to `y[s]`, which is `[M, N]`. `SUB` columns of a step of `BK` share their scale; of int4
    `SUB` bytes do, and `SAME` says whether both halves of a byte do, too.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    part = tl.program_id(1)
    m = tl.arange(0, BM)
    alive = m[None, :] < M
    if EVEN_N:
        wide = n.to(tl.int64)
    else:
        wide = tl.minimum(n, N - 1).to(tl.int64)  # rows beyond the last are read as the last, and not stored
    start = part * part_k
    X: tl.constexpr = x0.dtype.element_ty
    SUM: tl.constexpr = tl.int32 if X == tl.int8 and SCALE != 2 else tl.float32
    acc = tl.zeros((BN, BM), SUM)
    first = (start // GROUP) * N if GROUP else 0
    if FORM == "int4":
        HALF: tl.constexpr = CHUNK // 2
        lane = tl.arange(0, SUB)
        rows = w + wide[:, None] * HALF
        if SCALE != 2:
            offset = offsets(zero + first if ZERO else zero, n, N, ZERO, EVEN_N, X, NATIVE)[:, None]
        for step in range(0, part_k if NATIVE else PART, BK):
            k = start + step
            if PAIR:
                x = tl.where(k < K0, x0, x1 - K0)
                stride = tl.where(k < K0, stride0, stride1)
            else:
                x = x0
                stride = stride0
            for u in tl.static_range(BK // CHUNK):
                for v in tl.static_range(HALF // SUB):
                    column = k + u * CHUNK + v * SUB
                    at = ((k // CHUNK + u) * tl.cast(N, tl.int64)) * HALF + v * SUB
                    q = tl.load(rows + at + lane[None, :], eviction_policy="evict_first")
                    b = x + (column + lane)[:, None] + m[None, :] * stride
                    low_x = tl.load(b, mask=alive, other=0.0)
                    high_x = tl.load(b + HALF, mask=alive, other=0.0)
                    if SCALE == 2:
                        g = (column // GROUP) * N
                        offset = offsets(zero + g if ZERO else zero, n, N, ZERO, EVEN_N, X, NATIVE)[:, None]
                        s = row_values(scale + g, n, N, EVEN_N)[:, None]
                        if SAME:
                            low, high = int4_values(q, offset, X, NATIVE)
                            p = multiplied(low, low_x, tl.zeros((BN, BM), tl.float32), NATIVE)
                            p = multiplied(high, high_x, p, NATIVE)
                            acc += p * s
                        else:
                            h = ((column + HALF) // GROUP) * N
                            if ZERO:
                                other = offsets(zero + h, n, N, ZERO, EVEN_N, X, NATIVE)[:, None]
                                low, _ = int4_values(q, offset, X, NATIVE)
                                _, high = int4_values(q, other, X, NATIVE)
                            else:
                                low, high = int4_values(q, offset, X, NATIVE)
                            p = multiplied(low, low_x, tl.zeros((BN, BM), tl.float32), NATIVE)
                            acc += p * s
                            p = multiplied(high, high_x, tl.zeros((BN, BM), tl.float32), NATIVE)
                            acc += p * row_values(scale + h, n, N, EVEN_N)[:, None]
                    else:
                        low, high = int4_values(q, offset, X, NATIVE)
                        acc = multiplied(low, low_x, acc, NATIVE)
                        acc = multiplied(high, high_x, acc, NATIVE)
            if SCALE != 2:
                acc = settled(acc, NATIVE)
    else:
        lane = tl.arange(0, SUB)
        rows = w + wide[:, None] * K
        for step in range(0, part_k if NATIVE else PART, BK):
            k = start + step
            if PAIR:
                x = tl.where(k < K0, x0, x1 - K0)
                stride = tl.where(k < K0, stride0, stride1)
            else:
                x = x0
                stride = stride0
            for u in tl.static_range(BK // SUB):
                column = k + u * SUB
                kk = column + lane
                q = loaded(rows + kk[None, :], kk[None, :] < K, not EVEN_K)
                b = x + kk[:, None] + m[None, :] * stride
                if EVEN_K:
                    b = tl.load(b, mask=alive, other=0.0)
                else:
                    b = tl.load(b, mask=alive & (kk[:, None] < K), other=0.0)
                g = (column // GROUP) * N if GROUP else 0
                if ROUNDED:
                    if SCALE == 2:
                        p = rounded_product(q, b, tl.zeros((BN, BM), tl.int32 if X == tl.int8 else SUM), X, NATIVE)
                        if PAIR:
                            s = tl.where(k < K0, scale0, scale1)
                            apart = tl.where(k < K0, apart0, apart1)
                        else:
                            s = scale0
                            apart = apart0
                        s = row_scales(s, m, apart, M, UNIT)[None, :] * row_values(scale + g, n, N, EVEN_N)[:, None]
                        acc += p.to(tl.float32) * s
                    else:
                        acc = rounded_product(q, b, acc, X, NATIVE)
                else:
                    a = decoded(q, zero + g if ZERO else zero, n, N, FORM, ZERO, EVEN_N, X, NATIVE)
                    if SCALE == 2:
                        p = multiplied(a, b, tl.zeros((BN, BM), tl.float32), NATIVE)
                        acc += p * row_values(scale + g, n, N, EVEN_N)[:, None]
                    else:
                        acc = multiplied(a, b, acc, NATIVE)
            if SCALE != 2 and (X == tl.uint8 if ROUNDED else FORM != "dense"):
                acc = settled(acc, NATIVE)
    if ROUNDED and SCALE != 2:
        acc = acc.to(tl.float32) * row_scales(scale0, m, apart0, M, UNIT)[None, :]
    if SCALE == 1:
        acc = acc * row_values(scale + first, n, N, EVEN_N)[:, None]
    if BIAS:
        acc += row_values(bias, n, N, EVEN_N)[:, None]
    acc = finished(acc, n[:, None], ACT, ACT_FROM, ACT_TO)
    pointers = y + part * (tl.cast(M, tl.int64) * N) + m[None, :] * tl.cast(N, tl.int64) + n[:, None]
    if EVEN_N:
        tl.store(pointers, acc.to(y.dtype.element_ty), mask=alive)
    else:
        tl.store(pointers, acc.to(y.dtype.element_ty), mask=alive & (n[:, None] < N))


@triton.jit
def gemv(
    x0, x1, w, scale, zero, bias, y,
    N, K, K0, part_k,
    FORM: tl.constexpr, PAIR: tl.constexpr, SCALE: tl.constexpr, ZERO: tl.constexpr, GROUP: tl.constexpr,
    BIAS: tl.constexpr, ACT: tl.constexpr, ACT_FROM: tl.constexpr, ACT_TO: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, SUB: tl.constexpr, CHUNK: tl.constexpr, SAME: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, NATIVE: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """The same for one row, without matrix instructions: products and sums in float32."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    part = tl.program_id(1)
    same = n[:, None] * 0  # what is read for every row is read in the layout of the weight
    if EVEN_N:
        wide = n.to(tl.int64)
    else:
        wide = tl.minimum(n, N - 1).to(tl.int64)
    start = part * part_k
    X: tl.constexpr = x0.dtype.element_ty
    first = (start // GROUP) * N if GROUP else 0
    acc = tl.zeros((BN, SUB), tl.float32)
    lane = tl.arange(0, SUB)
    if FORM == "int4":
        HALF: tl.constexpr = CHUNK // 2
        rows = w + wide[:, None] * HALF
        if SCALE != 2:
            offset = offsets(zero + first if ZERO else zero, n, N, ZERO, EVEN_N, X, NATIVE)[:, None]
        for step in range(0, part_k if NATIVE else PART, BK):
            k = start + step
            if PAIR:
                x = tl.where(k < K0, x0, x1 - K0)
            else:
                x = x0
            for u in tl.static_range(BK // CHUNK):
                for v in tl.static_range(HALF // SUB):
                    column = k + u * CHUNK + v * SUB
                    at = ((k // CHUNK + u) * tl.cast(N, tl.int64)) * HALF + v * SUB
                    q = tl.load(rows + at + lane[None, :], eviction_policy="evict_first")
                    low_x = tl.load(x + (column + lane)[None, :] + same).to(tl.float32)
                    high_x = tl.load(x + (column + HALF + lane)[None, :] + same).to(tl.float32)
                    if SCALE == 2:
                        g = (column // GROUP) * N
                        offset = offsets(zero + g if ZERO else zero, n, N, ZERO, EVEN_N, X, NATIVE)[:, None]
                        s = row_values(scale + g, n, N, EVEN_N)[:, None]
                        if SAME:
                            low, high = int4_values(q, offset, X, NATIVE)
                            acc += (low.to(tl.float32) * low_x + high.to(tl.float32) * high_x) * s
                        else:
                            h = ((column + HALF) // GROUP) * N
                            if ZERO:
                                other = offsets(zero + h, n, N, ZERO, EVEN_N, X, NATIVE)[:, None]
                                low, _ = int4_values(q, offset, X, NATIVE)
                                _, high = int4_values(q, other, X, NATIVE)
                            else:
                                low, high = int4_values(q, offset, X, NATIVE)
                            acc += low.to(tl.float32) * low_x * s
                            acc += high.to(tl.float32) * high_x * row_values(scale + h, n, N, EVEN_N)[:, None]
                    else:
                        low, high = int4_values(q, offset, X, NATIVE)
                        acc += low.to(tl.float32) * low_x + high.to(tl.float32) * high_x
    else:
        rows = w + wide[:, None] * K
        for step in range(0, part_k if NATIVE else PART, BK):
            k = start + step
            if PAIR:
                x = tl.where(k < K0, x0, x1 - K0)
            else:
                x = x0
            for u in tl.static_range(BK // SUB):
                column = k + u * SUB
                kk = column + lane
                q = loaded(rows + kk[None, :], kk[None, :] < K, not EVEN_K)
                if EVEN_K:
                    b = tl.load(x + kk[None, :] + same).to(tl.float32)
                else:
                    b = tl.load(x + kk[None, :] + same, mask=(kk[None, :] + same) < K, other=0.0).to(tl.float32)
                g = (column // GROUP) * N if GROUP else 0
                a = decoded(q, zero + g if ZERO else zero, n, N, FORM, ZERO, EVEN_N, X, NATIVE).to(tl.float32)
                if SCALE == 2:
                    acc += a * b * row_values(scale + g, n, N, EVEN_N)[:, None]
                else:
                    acc += a * b
    total = tl.sum(acc, 1)
    if SCALE == 1:
        total = total * row_values(scale + first, n, N, EVEN_N)
    if BIAS:
        total += row_values(bias, n, N, EVEN_N)
    total = finished(total, n, ACT, ACT_FROM, ACT_TO)
    pointers = y + part * tl.cast(N, tl.int64) + n
    if EVEN_N:
        tl.store(pointers, total.to(y.dtype.element_ty))
    else:
        tl.store(pointers, total.to(y.dtype.element_ty), mask=n < N)


@triton.jit(do_not_specialize=["M"])
def summed(
    parts, bias, y, M, N,
    S: tl.constexpr, S2: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr, ACT_FROM: tl.constexpr,
    ACT_TO: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """`y[m] = act(sum_s parts[s, m] + bias)`; `S2` is the power of two from `S` on."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1).to(tl.int64)
    s = tl.arange(0, S2)
    mask = n < N
    values = tl.load(
        parts + (s[:, None] * tl.cast(M, tl.int64) + m) * N + n[None, :],
        mask=(s[:, None] < S) & mask[None, :],
        other=0.0,
    )
    total = tl.sum(values, 0)
    if BIAS:
        total += tl.load(bias + n, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + m * N + n, finished(total, n, ACT, ACT_FROM, ACT_TO).to(y.dtype.element_ty), mask=mask)
