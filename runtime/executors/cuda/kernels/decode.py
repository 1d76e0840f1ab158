"""Attention of one new token a sequence over pools of blocks, whose cache it writes itself."""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.executors.cuda.kernels.elements import head_parameter, load_rotated, quantized, widened


@triton.jit(do_not_specialize=["splits", "table_stride"])
def decode(
    q, k, v, k_pool, v_pool, positions, rows, tables, cos, sin, slopes, k_scales, v_scales, k_zeros, v_zeros, context,
    partial, tops, totals, arrivals,
    q_stride, k_stride, v_stride, table_stride, scale, splits,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, R: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr, K_FORM: tl.constexpr, V_FORM: tl.constexpr,
    K_SCALES: tl.constexpr, V_SCALES: tl.constexpr, K_ZEROS: tl.constexpr, V_ZEROS: tl.constexpr,
    WINDOW: tl.constexpr, ALIBI: tl.constexpr, MOST_SPLITS: tl.constexpr, GROUP: tl.constexpr, BN: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The context of one token over its sequence: `grid (key head, split, token)`.

    A program has the query heads of a key head, padded to `GROUP` (1 if keys are not shared), and its share of the
    positions before the token's own. The last program with a share has the token's own key and value, too, and writes
    them. If there are several, each leaves its sums in `partial f32[T, KV_HEADS, splits, GROUP, DP]`, `tops` and
    `totals f32[T, KV_HEADS, splits, GROUP]`, and the last to arrive adds them up. `arrivals i32[T, KV_HEADS]` are 0
    before and after.
    """
    kv_head = tl.program_id(0)
    split = tl.program_id(1)
    token = tl.program_id(2)
    row = tl.load(rows + token)
    d = tl.arange(0, DP)
    g = tl.arange(0, GROUP)
    head = kv_head * (HEADS // KV_HEADS) + g
    mask = (g < HEADS // KV_HEADS)[:, None] & (d < D)[None, :]
    out = context + token.to(tl.int64) * (HEADS * D) + head[:, None] * D + d[None, :]
    if row < 0:
        if split == 0:
            tl.store(out, tl.zeros((GROUP, DP), context.dtype.element_ty), mask=mask)
        return
    position = tl.load(positions + token)
    earliest = 0
    if WINDOW >= 0:
        earliest = tl.maximum(position - WINDOW, 0)
    first = earliest // BN * BN
    share = tl.maximum(tl.cdiv(tl.cdiv(position - first, splits), BN), 1) * BN
    shares = tl.maximum(tl.cdiv(position - first, share), 1)
    if split >= shares:
        return
    begin = first + split * share
    end = tl.minimum(begin + share, position)

    queries = load_rotated(
        q + token.to(tl.int64) * q_stride + head[:, None] * D, token * (R // 2), cos, sin, d[None, :], mask, R,
        INTERLEAVED,
    )  # fmt: skip
    inside = (d < D) & (split == shares - 1)
    key = load_rotated(
        k + token.to(tl.int64) * k_stride + kv_head * D, token * (R // 2), cos, sin, d, inside, R, INTERLEAVED
    )
    value = tl.load(v + token.to(tl.int64) * v_stride + kv_head * D + d, mask=inside, other=0.0)
    k_zero = head_parameter(k_zeros, kv_head, K_ZEROS, 0.0)
    v_zero = head_parameter(v_zeros, kv_head, V_ZEROS, 0.0)
    k_scale = head_parameter(k_scales, kv_head, K_SCALES, 1.0)
    v_scale = head_parameter(v_scales, kv_head, V_SCALES, 1.0)
    factor = scale * 1.4426950408889634 * k_scale
    slope = tl.zeros((GROUP,), tl.float32)
    if ALIBI:
        slope = tl.load(slopes + head, mask=g < HEADS // KV_HEADS, other=0.0) * 1.4426950408889634
    table = tables + row.to(tl.int64) * table_stride
    if GROUP == 1:
        acc, top, total = _by_sums(
            tl.sum(queries.to(tl.float32), 0), k_pool, v_pool, table, begin, end, earliest, position, kv_head, k_zero,
            v_zero, factor, tl.sum(slope, 0), d, KV_HEADS, D, DP, BLOCK, K_FORM, V_FORM, ALIBI, BN, STAGES,
        )  # fmt: skip
    else:
        acc, top, total = _by_products(
            queries, k_pool, v_pool, table, begin, end, earliest, position, kv_head, k_zero, v_zero, factor, slope, d,
            KV_HEADS, D, DP, BLOCK, K_FORM, V_FORM, ALIBI, GROUP, BN, STAGES,
        )  # fmt: skip

    if split == shares - 1:
        own_key = quantized(key, k_scale, k_zero, K_FORM, k_pool.dtype.element_ty)
        own_value = quantized(value, v_scale, v_zero, V_FORM, v_pool.dtype.element_ty)
        slot = tl.load(table + position // BLOCK).to(tl.int64) * BLOCK + position % BLOCK
        at = (slot * KV_HEADS + kv_head) * D + d
        tl.store(k_pool + at, own_key, mask=inside)
        tl.store(v_pool + at, own_value, mask=inside)
        wide = widened(own_key, k_zero, K_FORM, tl.float32)
        score = tl.sum(tl.where(mask, queries.to(tl.float32) * wide[None, :], 0.0), 1) * factor
        highest = tl.maximum(top, score)
        p = tl.exp2(score - highest)
        kept = tl.exp2(top - highest)
        acc = acc * kept[:, None] + p[:, None] * widened(own_value, v_zero, V_FORM, tl.float32)[None, :]
        total = total * kept + p
        top = highest

    if MOST_SPLITS > 1:  # noqa: SIM102 - this one is decided when the kernel is compiled
        if shares > 1:
            place = token * KV_HEADS + kv_head
            mine = (place.to(tl.int64) * splits + split) * GROUP + g
            tl.store(partial + mine[:, None] * DP + d[None, :], acc)
            tl.store(tops + mine, top)
            tl.store(totals + mine, total)
            tl.debug_barrier()
            arrived = tl.atomic_add(arrivals + place, 1, sem="acq_rel")
            if arrived < shares - 1:
                return
            tl.store(arrivals + place, 0)
            acc, total = _combined(partial, tops, totals, place, splits, shares, d, g, DP, MOST_SPLITS, GROUP)
    acc = acc * (v_scale / total)[:, None]
    tl.store(out, acc.to(context.dtype.element_ty), mask=mask)


@triton.jit
def _offsets(start, table, end, earliest, kv_head, d, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
             BN: tl.constexpr):  # fmt: skip
    """Where the values of a head at the positions from `start` on are, `[BN, DP]`, which positions, and which count."""
    at = start + tl.arange(0, BN)
    live = (at >= earliest) & (at < end)
    if BLOCK % BN == 0:
        slot = tl.load(table + start // BLOCK).to(tl.int64) * BLOCK + start % BLOCK + tl.arange(0, BN)
    else:
        slot = tl.load(table + at // BLOCK, mask=live, other=0).to(tl.int64) * BLOCK + at % BLOCK
    return ((slot * KV_HEADS + kv_head) * D)[:, None] + d[None, :], at, live


@triton.jit
def _by_sums(
    query, k_pool, v_pool, table, begin, end, earliest, position, kv_head, k_zero, v_zero, factor, slope, d,
    KV_HEADS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr, K_FORM: tl.constexpr,
    V_FORM: tl.constexpr, ALIBI: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Attention of one query without tensor cores: `acc [1, DP]`, `top [1]` and `total [1]` of the online softmax.

    Each row of a tile has a softmax of its own until the end, so that threads need not wait for each other.
    """
    top = tl.full((BN,), -1.0e30, tl.float32)
    total = tl.zeros((BN,), tl.float32)
    acc = tl.zeros((BN, DP), tl.float32)
    for start in tl.range(begin, end, BN, num_stages=STAGES):
        offset, at, live = _offsets(start, table, end, earliest, kv_head, d, KV_HEADS, D, BLOCK, BN)
        inside = live[:, None] & (d < D)[None, :]
        keys = tl.load(k_pool + offset, mask=inside, other=0)
        values = tl.load(v_pool + offset, mask=inside, other=0)
        scores = tl.sum(widened(keys, k_zero, K_FORM, tl.float32) * query[None, :], 1) * factor
        if ALIBI:
            scores += slope * (at - position).to(tl.float32)
        scores = tl.where(live, scores, float("-inf"))
        highest = tl.maximum(top, scores)
        p = tl.exp2(scores - highest)
        kept = tl.exp2(top - highest)
        acc = acc * kept[:, None] + p[:, None] * widened(values, v_zero, V_FORM, tl.float32)
        total = total * kept + p
        top = highest
    highest = tl.max(top, 0)
    kept = tl.exp2(top - highest)
    acc = tl.sum(acc * kept[:, None], 0)
    return acc[None, :], tl.zeros((1,), tl.float32) + highest, tl.zeros((1,), tl.float32) + tl.sum(total * kept, 0)


@triton.jit
def _by_products(
    queries, k_pool, v_pool, table, begin, end, earliest, position, kv_head, k_zero, v_zero, factor, slope, d,
    KV_HEADS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr, K_FORM: tl.constexpr,
    V_FORM: tl.constexpr, ALIBI: tl.constexpr, GROUP: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Attention of `GROUP` queries that share a key head: `acc [GROUP, DP]`, `top [GROUP]` and `total [GROUP]`."""
    top = tl.full((GROUP,), -1.0e30, tl.float32)
    total = tl.zeros((GROUP,), tl.float32)
    acc = tl.zeros((GROUP, DP), tl.float32)
    for start in tl.range(begin, end, BN, num_stages=STAGES):
        offset, at, live = _offsets(start, table, end, earliest, kv_head, d, KV_HEADS, D, BLOCK, BN)
        inside = live[:, None] & (d < D)[None, :]
        keys = widened(tl.load(k_pool + offset, mask=inside, other=0), k_zero, K_FORM, queries.dtype)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * factor
        if ALIBI:
            scores += slope[:, None] * (at - position).to(tl.float32)[None, :]
        scores = tl.where(live[None, :], scores, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp2(scores - highest[:, None])
        kept = tl.exp2(top - highest)
        values = widened(tl.load(v_pool + offset, mask=inside, other=0), v_zero, V_FORM, queries.dtype)
        acc = tl.dot(p.to(queries.dtype), values, acc * kept[:, None], input_precision="ieee")
        total = total * kept + tl.sum(p, 1)
        top = highest
    return acc, top, total


@triton.jit
def _combined(
    partial, tops, totals, place, splits, shares, d, g, DP: tl.constexpr, MOST_SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """The sums of all programs of a token and key head: `acc [GROUP, DP]` and `total [GROUP]`."""
    if GROUP == 1:
        s = tl.arange(0, MOST_SPLITS)
        at = place.to(tl.int64) * splits + s
        its = tl.load(tops + at, mask=s < shares, other=-1.0e30, cache_modifier=".cg")
        weight = tl.exp2(its - tl.max(its, 0))
        counts = tl.load(totals + at, mask=s < shares, other=0.0, cache_modifier=".cg")
        there = (s < shares)[:, None] & (d >= 0)[None, :]
        sums = tl.load(partial + at[:, None] * DP + d[None, :], mask=there, other=0.0, cache_modifier=".cg")
        acc = tl.sum(sums * weight[:, None], 0)[None, :]
        total = tl.zeros((1,), tl.float32) + tl.sum(counts * weight, 0)
    else:
        acc = tl.zeros((GROUP, DP), tl.float32)
        total = tl.zeros((GROUP,), tl.float32)
        top = tl.full((GROUP,), -1.0e30, tl.float32)
        for split in range(shares):
            at = (place.to(tl.int64) * splits + split) * GROUP + g
            its = tl.load(tops + at, cache_modifier=".cg")
            sums = tl.load(partial + at[:, None] * DP + d[None, :], cache_modifier=".cg")
            counts = tl.load(totals + at, cache_modifier=".cg")
            highest = tl.maximum(top, its)
            weight = tl.exp2(its - highest)
            kept = tl.exp2(top - highest)
            acc = acc * kept[:, None] + sums * weight[:, None]
            total = total * kept + weight * counts
            top = highest
    return acc, total
