"""Attention of one new token a sequence over pools of blocks, whose cache it writes itself."""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.executors.cuda.kernels.dependent import wait_for_kernel_before
from runtime.executors.cuda.kernels.elements import head_parameter, load_rotated, quantized, widened


@triton.jit(do_not_specialize=["splits", "table_stride"])
def decode(
    q, k, v, k_pool, v_pool, positions, rows, tables, cos, sin, slopes, k_scales, v_scales, k_zeros, v_zeros, context,
    listed, partial, tops, totals, arrivals,
    q_stride, k_stride, v_stride, table_stride, scale, splits,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, R: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr, K_FORM: tl.constexpr, V_FORM: tl.constexpr,
    K_SCALES: tl.constexpr, V_SCALES: tl.constexpr, K_ZEROS: tl.constexpr, V_ZEROS: tl.constexpr,
    WINDOW: tl.constexpr, ALIBI: tl.constexpr, MOST_SPLITS: tl.constexpr, LISTED: tl.constexpr, KEYS: tl.constexpr,
    GROUP: tl.constexpr, BN: tl.constexpr, UNROLL: tl.constexpr, STAGES: tl.constexpr, ENTRY: tl.constexpr,
    SLOT: tl.constexpr, HEAD: tl.constexpr, BOUNDED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The context of one token over its sequence: `grid (KV_HEADS / KEYS, split, token)`.

    In the pools, blocks are `ENTRY` values apart, the positions of a block `SLOT`, and heads `HEAD`. With `BOUNDED`, a
    sequence has one block, and a token whose position is beyond it is padding.
    With `LISTED`, the tokens are those in `listed i32[S]`, of which negative ones are none; the sums and counters below
    are of `S` tokens then.
    A program has the query heads of `KEYS` key heads: `G` in all, that is `KEYS` if keys are not shared, or `GROUP`
    that share one, with padding; and its share of the positions before the token's own, of which it reads `BN` at a
    time. The last program with a share has the token's own key and value, too, and writes them. If there are several,
    each leaves its sums in `partial f32[T, KV_HEADS / KEYS, splits, G, DP]`, `tops` and `totals f32[T, KV_HEADS / KEYS,
    splits, G]`, and the last to arrive adds them up. `arrivals i32[T, KV_HEADS / KEYS]` are 0 before and after.
    """
    wait_for_kernel_before(EARLY)
    G: tl.constexpr = KEYS if GROUP == 1 else GROUP
    kv_head = tl.program_id(0) * KEYS
    split = tl.program_id(1)
    place = tl.program_id(2) * (KV_HEADS // KEYS) + tl.program_id(0)
    token = tl.program_id(2)
    if LISTED:
        token = tl.load(listed + token)
        if token < 0:
            return
    row = tl.load(rows + token)
    position = tl.load(positions + token)
    if BOUNDED and position >= BLOCK:
        row = -1
    token = token.to(tl.int64)
    d = tl.arange(0, DP)
    g = tl.arange(0, G)
    mask = (g < KEYS * (HEADS // KV_HEADS))[:, None] & (d < D)[None, :]
    out = context + (token * HEADS + kv_head * (HEADS // KV_HEADS) + g)[:, None] * D + d[None, :]
    if row < 0:
        if split == 0:
            tl.store(out, tl.zeros((G, DP), context.dtype.element_ty), mask=mask)
        return
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
    last = split == shares - 1
    table = tables + row.to(tl.int64) * table_stride
    q += token * q_stride
    k += token * k_stride
    v += token * v_stride
    angles = token * (R // 2)
    if GROUP == 1:
        acc, top, total = _by_sums(
            q, k, v, k_pool, v_pool, table, angles, cos, sin, slopes, k_scales, v_scales, k_zeros, v_zeros, begin, end,
            earliest, position, last, kv_head, scale, D, DP, R, INTERLEAVED, BLOCK, K_FORM, V_FORM,
            K_SCALES, V_SCALES, K_ZEROS, V_ZEROS, WINDOW, ALIBI, KEYS, BN, UNROLL, STAGES, ENTRY, SLOT, HEAD,
        )  # fmt: skip
    else:
        acc, top, total = _by_products(
            q, k, v, k_pool, v_pool, table, angles, cos, sin, slopes, k_scales, v_scales, k_zeros, v_zeros, begin, end,
            earliest, position, last, kv_head, scale, HEADS // KV_HEADS, D, DP, R, INTERLEAVED, BLOCK, K_FORM, V_FORM,
            K_SCALES, V_SCALES, K_ZEROS, V_ZEROS, WINDOW, ALIBI, GROUP, BN, STAGES, ENTRY, SLOT, HEAD,
        )  # fmt: skip
    if MOST_SPLITS > 1:  # noqa: SIM102 - this one is decided when the kernel is compiled
        if shares > 1:
            mine = (place.to(tl.int64) * splits + split) * G + g
            tl.store(partial + mine[:, None] * DP + d[None, :], acc)
            tl.store(tops + mine, top)
            tl.store(totals + mine, total)
            tl.debug_barrier()
            arrived = tl.atomic_add(arrivals + place, 1, sem="acq_rel")
            if arrived < shares - 1:
                return
            tl.store(arrivals + place, 0)
            if GROUP == 1:
                acc, total = _combined_at_once(partial, tops, totals, place, splits, shares, d, g, DP, MOST_SPLITS, G)
            else:
                acc, total = _combined(partial, tops, totals, place, splits, shares, d, g, DP, G)
    v_scale = head_parameter(v_scales, kv_head + g % KEYS, V_SCALES, 1.0)
    acc = acc * (v_scale / total)[:, None]
    tl.store(out, acc.to(context.dtype.element_ty), mask=mask)


@triton.jit
def _slots(start, table, live, n, BLOCK: tl.constexpr, BN: tl.constexpr, ENTRY: tl.constexpr, SLOT: tl.constexpr):
    """Where in the pools the positions `start + n` are: a block's first, `i64`, and how far each is behind it.

    Args:
        start: a multiple of `BN`.
        table: pointer to the blocks of the sequence.
        live: which positions count.
        n: `i32`, below `BN`.
        BLOCK: how many positions a block has.
        BN: over how many positions `n` goes.
        ENTRY: how far blocks are apart.
        SLOT: how far positions are apart.
    """
    if BLOCK % BN == 0:
        base = tl.load(table + start // BLOCK).to(tl.int64) * ENTRY
        after = (start % BLOCK + n) * SLOT
    else:
        at = start + n
        base = tl.zeros((), tl.int64)
        after = tl.load(table + at // BLOCK, mask=live, other=0).to(tl.int64) * ENTRY + at % BLOCK * SLOT
    return base, after


@triton.jit
def _place(position, table, BLOCK: tl.constexpr, ENTRY: tl.constexpr, SLOT: tl.constexpr):
    """Where in the pools a position is, `i64`."""
    return tl.load(table + position // BLOCK).to(tl.int64) * ENTRY + position % BLOCK * SLOT


@triton.jit
def _live(at, end, earliest, WINDOW: tl.constexpr):
    """Which positions a share has."""
    live = at < end
    if WINDOW >= 0:
        live = live & (at >= earliest)
    return live


@triton.jit
def _rows_of_heads(
    k_pool, v_pool, table, start, n, kv_head, head, live, d, D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr,
    BN: tl.constexpr, ENTRY: tl.constexpr, SLOT: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """Keys and values `[rows, UNROLL, DP]` as stored, of the positions `start + n [rows, UNROLL]`."""
    base, after = _slots(start, table, live, n, BLOCK, BN, ENTRY, SLOT)
    base += kv_head.to(tl.int64) * HEAD
    offset = (after + head[:, None] * HEAD)[:, :, None] + d[None, None, :]
    inside = live[:, :, None]
    if D != DP:
        inside = inside & (d < D)[None, None, :]
    return tl.load(k_pool + base + offset, mask=inside, other=0), tl.load(v_pool + base + offset, mask=inside, other=0)


@triton.jit
def _by_sums(
    q, k, v, k_pool, v_pool, table, angles, cos, sin, slopes, k_scales, v_scales, k_zeros, v_zeros, begin, end,
    earliest, position, last, kv_head, scale,
    D: tl.constexpr, DP: tl.constexpr, R: tl.constexpr, INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr, K_FORM: tl.constexpr, V_FORM: tl.constexpr, K_SCALES: tl.constexpr, V_SCALES: tl.constexpr,
    K_ZEROS: tl.constexpr, V_ZEROS: tl.constexpr, WINDOW: tl.constexpr, ALIBI: tl.constexpr, KEYS: tl.constexpr,
    BN: tl.constexpr, UNROLL: tl.constexpr, STAGES: tl.constexpr, ENTRY: tl.constexpr, SLOT: tl.constexpr,
    HEAD: tl.constexpr,
):  # fmt: skip
    """Attention without tensor cores, of `KEYS` heads that have keys of their own.

    A row of a tile is a head of a position; the heads of a position lie one after the other. Each row of threads has
    an online softmax of its own until the end, so that threads need not wait for each other: it takes `UNROLL` rows at
    a time, which are loaded straight into registers; with two `STAGES`, while those before are computed.

    Returns:
        `acc [KEYS, DP]`, `top [KEYS]` and `total [KEYS]` of the online softmax.
    """
    PLACES: tl.constexpr = BN // UNROLL
    ROWS: tl.constexpr = PLACES * KEYS
    r = tl.arange(0, ROWS)
    head = r % KEYS
    n = (r // KEYS)[:, None] + tl.arange(0, UNROLL)[None, :] * PLACES
    d = tl.arange(0, DP)
    each = r[:, None] >= 0
    own = last & (r < KEYS)[:, None]
    at_head = (kv_head + head)[:, None] * D
    query = load_rotated(q + at_head, angles, cos, sin, each, D, DP, R, INTERLEAVED).to(tl.float32)
    k_scale = head_parameter(k_scales, kv_head + head, K_SCALES, 1.0)
    k_zero = head_parameter(k_zeros, kv_head + head, K_ZEROS, 0.0)
    v_zero = head_parameter(v_zeros, kv_head + head, V_ZEROS, 0.0)
    factor = scale * 1.4426950408889634 * k_scale
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + kv_head + head)[:, None] * 1.4426950408889634
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, DP), tl.float32)
    if STAGES > 1:
        ahead = _live(begin + n, end, earliest, WINDOW)
        keys, values = _rows_of_heads(
            k_pool, v_pool, table, begin, n, kv_head, head, ahead, d, D, DP, BLOCK, BN, ENTRY, SLOT, HEAD
        )
    for start in tl.range(begin, end, BN, num_stages=1):
        at = start + n
        live = _live(at, end, earliest, WINDOW)
        if STAGES > 1:
            following = tl.minimum(start + BN, (end - 1) // BN * BN)
            ahead = _live(at + BN, end, earliest, WINDOW)
            next_keys, next_values = _rows_of_heads(
                k_pool, v_pool, table, following, n, kv_head, head, ahead, d, D, DP, BLOCK, BN, ENTRY, SLOT, HEAD
            )
        else:
            keys, values = _rows_of_heads(
                k_pool, v_pool, table, start, n, kv_head, head, live, d, D, DP, BLOCK, BN, ENTRY, SLOT, HEAD
            )
        wide = widened(keys, k_zero[:, None, None], K_FORM, tl.float32)
        scores = tl.sum(wide * query[:, None, :], 2) * factor[:, None]
        if ALIBI:
            scores += slope * (at - position).to(tl.float32)
        scores = tl.where(live, scores, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp2(scores - highest[:, None])
        kept = tl.exp2(top - highest)
        wide = widened(values, v_zero[:, None, None], V_FORM, tl.float32)
        acc = acc * kept[:, None] + tl.sum(wide * p[:, :, None], 1)
        total = total * kept + tl.sum(p, 1)
        top = highest
        if STAGES > 1:
            keys, values = next_keys, next_values
    if last:
        key = load_rotated(k + at_head, angles, cos, sin, own, D, DP, R, INTERLEAVED)
        inside = own & (d < D)[None, :]
        value = tl.load(v + at_head + d[None, :], mask=inside, other=0.0)
        v_scale = head_parameter(v_scales, kv_head + head, V_SCALES, 1.0)
        own_key = quantized(key, k_scale[:, None], k_zero[:, None], K_FORM, k_pool.dtype.element_ty)
        own_value = quantized(value, v_scale[:, None], v_zero[:, None], V_FORM, v_pool.dtype.element_ty)
        to = _place(position, table, BLOCK, ENTRY, SLOT) + (kv_head + head)[:, None].to(tl.int64) * HEAD + d[None, :]
        tl.store(k_pool + to, own_key, mask=inside)
        tl.store(v_pool + to, own_value, mask=inside)
        score = tl.sum(widened(own_key, k_zero[:, None], K_FORM, tl.float32) * query, 1) * factor
        score = tl.where(r < KEYS, score, float("-inf"))
        highest = tl.maximum(top, score)
        p = tl.exp2(score - highest)
        kept = tl.exp2(top - highest)
        acc = acc * kept[:, None] + p[:, None] * widened(own_value, v_zero[:, None], V_FORM, tl.float32)
        total = total * kept + p
        top = highest
    tops = tl.reshape(top, (PLACES, KEYS))
    highest = tl.max(tops, 0)
    kept = tl.exp2(tops - highest[None, :])
    acc = tl.sum(tl.reshape(acc, (PLACES, KEYS, DP)) * kept[:, :, None], 0)
    return acc, highest, tl.sum(tl.reshape(total, (PLACES, KEYS)) * kept, 0)


@triton.jit
def _by_products(
    q, k, v, k_pool, v_pool, table, angles, cos, sin, slopes, k_scales, v_scales, k_zeros, v_zeros, begin, end,
    earliest, position, last, kv_head, scale,
    MEMBERS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, R: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr, K_FORM: tl.constexpr, V_FORM: tl.constexpr,
    K_SCALES: tl.constexpr, V_SCALES: tl.constexpr, K_ZEROS: tl.constexpr, V_ZEROS: tl.constexpr,
    WINDOW: tl.constexpr, ALIBI: tl.constexpr, GROUP: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
    ENTRY: tl.constexpr, SLOT: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """Attention of `MEMBERS` queries that share a key head, padded to `GROUP`, by tensor cores.

    Returns:
        `acc [GROUP, DP]`, `top [GROUP]` and `total [GROUP]` of the online softmax.
    """
    g = tl.arange(0, GROUP)
    d = tl.arange(0, DP)
    member = g < MEMBERS
    head = kv_head * MEMBERS + g
    queries = load_rotated(q + head[:, None] * D, angles, cos, sin, member[:, None], D, DP, R, INTERLEAVED)
    k_scale = head_parameter(k_scales, kv_head, K_SCALES, 1.0)
    k_zero = head_parameter(k_zeros, kv_head, K_ZEROS, 0.0)
    v_zero = head_parameter(v_zeros, kv_head, V_ZEROS, 0.0)
    factor = scale * 1.4426950408889634 * k_scale
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + head, mask=member, other=0.0)[:, None] * 1.4426950408889634
    top = tl.full((GROUP,), -1.0e30, tl.float32)
    total = tl.zeros((GROUP,), tl.float32)
    acc = tl.zeros((GROUP, DP), tl.float32)
    n = tl.arange(0, BN)
    for start in tl.range(begin, end, BN, num_stages=STAGES):
        at = start + n
        live = _live(at, end, earliest, WINDOW)
        base, after = _slots(start, table, live, n, BLOCK, BN, ENTRY, SLOT)
        base += kv_head.to(tl.int64) * HEAD
        offset = after[:, None] + d[None, :]
        inside = live[:, None] & (d < D)[None, :]
        keys = widened(tl.load(k_pool + base + offset, mask=inside, other=0), k_zero, K_FORM, queries.dtype)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * factor
        if ALIBI:
            scores += slope * (at - position).to(tl.float32)[None, :]
        scores = tl.where(live[None, :], scores, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp2(scores - highest[:, None])
        kept = tl.exp2(top - highest)
        values = widened(tl.load(v_pool + base + offset, mask=inside, other=0), v_zero, V_FORM, queries.dtype)
        acc = tl.dot(p.to(queries.dtype), values, acc * kept[:, None], input_precision="ieee")
        total = total * kept + tl.sum(p, 1)
        top = highest
    if last:
        one = tl.arange(0, 1)[:, None]
        key = load_rotated(k + kv_head * D + one, angles, cos, sin, one == 0, D, DP, R, INTERLEAVED)
        inside = (d < D)[None, :]
        value = tl.load(v + kv_head * D + d[None, :], mask=inside, other=0.0)
        v_scale = head_parameter(v_scales, kv_head, V_SCALES, 1.0)
        own_key = quantized(key, k_scale, k_zero, K_FORM, k_pool.dtype.element_ty)
        own_value = quantized(value, v_scale, v_zero, V_FORM, v_pool.dtype.element_ty)
        to = _place(position, table, BLOCK, ENTRY, SLOT) + kv_head.to(tl.int64) * HEAD + d[None, :]
        tl.store(k_pool + to, own_key, mask=inside)
        tl.store(v_pool + to, own_value, mask=inside)
        score = tl.sum(widened(own_key, k_zero, K_FORM, tl.float32) * queries.to(tl.float32), 1) * factor
        highest = tl.maximum(top, score)
        p = tl.exp2(score - highest)
        kept = tl.exp2(top - highest)
        acc = acc * kept[:, None] + p[:, None] * widened(own_value, v_zero, V_FORM, tl.float32)
        total = total * kept + p
        top = highest
    return acc, top, total


@triton.jit
def _combined_at_once(
    partial, tops, totals, place, splits, shares, d, g, DP: tl.constexpr, MOST_SPLITS: tl.constexpr, G: tl.constexpr
):  # fmt: skip
    """The sums of all programs of a place: `acc [G, DP]` and `total [G]`."""
    s = tl.arange(0, MOST_SPLITS)
    there = (s < shares)[:, None] & (g >= 0)[None, :]
    at = (place.to(tl.int64) * splits + s)[:, None] * G + g[None, :]
    its = tl.load(tops + at, mask=there, other=-1.0e30, cache_modifier=".cg")
    weight = tl.exp2(its - tl.max(its, 0)[None, :])
    counts = tl.load(totals + at, mask=there, other=0.0, cache_modifier=".cg")
    each = there[:, :, None] & (d >= 0)[None, None, :]
    sums = tl.load(partial + at[:, :, None] * DP + d[None, None, :], mask=each, other=0.0, cache_modifier=".cg")
    return tl.sum(sums * weight[:, :, None], 0), tl.sum(counts * weight, 0)


@triton.jit
def _combined(partial, tops, totals, place, splits, shares, d, g, DP: tl.constexpr, G: tl.constexpr):
    """The same, one program after the other, for many heads."""
    acc = tl.zeros((G, DP), tl.float32)
    total = tl.zeros((G,), tl.float32)
    top = tl.full((G,), -1.0e30, tl.float32)
    for split in range(shares):
        at = (place.to(tl.int64) * splits + split) * G + g
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
