"""Attention of chunks of prompts over pools of blocks."""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.executors.cuda.kernels.dependent import wait_for_kernel_before
from runtime.executors.cuda.kernels.elements import head_parameter, widened


@triton.jit(do_not_specialize=["table_stride"])
def prefill(
    q, k_pool, v_pool, items, tables, slopes, k_scales, v_scales, k_zeros, v_zeros, context,
    q_stride, table_stride, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr,
    K_FORM: tl.constexpr, V_FORM: tl.constexpr, K_SCALES: tl.constexpr, V_SCALES: tl.constexpr,
    K_ZEROS: tl.constexpr, V_ZEROS: tl.constexpr, WINDOW: tl.constexpr, ALIBI: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Causal attention of work items, whose keys and values are in the pools: `grid (head, part, item)`.

    A program has `BM` consecutive queries of an item and head, and goes over the positions that they see by `BN`. Sums
    and softmax are float32. `q` is `[T, HEADS * D]` and may be the memory of `context`: a program reads the queries
    before it writes their context. `items` are those of `work_items`; `scale` is more than 0.
    """
    wait_for_kernel_before(EARLY)
    head = tl.program_id(0)
    skipped = (tl.num_programs(1) - 1 - tl.program_id(1)) * BM  # the last see most, and so come first
    item = items + tl.program_id(2) * 4
    count = tl.minimum(tl.load(item + 2) - skipped, BM)
    if count <= 0:
        return
    row = tl.load(item)
    first = tl.load(item + 1) + skipped
    past = tl.load(item + 3) + skipped
    kv_head = head // (HEADS // KV_HEADS)
    d = tl.arange(0, DP)
    m = tl.arange(0, BM)
    token = (first + m).to(tl.int64)[:, None]
    mask = (m < count)[:, None] & (d < D)[None, :]
    queries = tl.load(q + token * q_stride + head * D + d[None, :], mask=mask, other=0.0)
    k_zero = head_parameter(k_zeros, kv_head, K_ZEROS, 0.0)
    v_zero = head_parameter(v_zeros, kv_head, V_ZEROS, 0.0)
    factor = scale * 1.4426950408889634 * head_parameter(k_scales, kv_head, K_SCALES, 1.0)
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + head) * 1.4426950408889634
    table = tables + row.to(tl.int64) * table_stride
    begin = 0
    if WINDOW >= 0:
        begin = tl.maximum(past - WINDOW, 0) // BN * BN
    # Every query sees all positions before `seen`; without a window, no mask is needed there.
    seen = begin
    if WINDOW < 0:
        seen = (past + 1) // BN * BN
    end = past + count
    top = tl.full((BM,), -1.0e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, DP), tl.float32)
    entry = tl.load(table + begin // BLOCK)
    for start in tl.range(begin, seen, BN, num_stages=STAGES):
        following = tl.load(table + tl.minimum(start + BN, end - 1) // BLOCK)
        acc, top, total = _tile(
            queries, acc, top, total, start, past, end, entry, k_pool, v_pool, table, kv_head, k_zero, v_zero, factor,
            slope, d, m, KV_HEADS, D, BLOCK, K_FORM, V_FORM, WINDOW, ALIBI, BN, False,
        )  # fmt: skip
        entry = following
    for start in tl.range(seen, end, BN, num_stages=STAGES):
        following = tl.load(table + tl.minimum(start + BN, end - 1) // BLOCK)
        acc, top, total = _tile(
            queries, acc, top, total, start, past, end, entry, k_pool, v_pool, table, kv_head, k_zero, v_zero, factor,
            slope, d, m, KV_HEADS, D, BLOCK, K_FORM, V_FORM, WINDOW, ALIBI, BN, True,
        )  # fmt: skip
        entry = following
    acc = acc * (head_parameter(v_scales, kv_head, V_SCALES, 1.0) / tl.maximum(total, 1.0e-30))[:, None]
    tl.store(context + (token * HEADS + head) * D + d[None, :], acc.to(context.dtype.element_ty), mask=mask)


@triton.jit
def _tile(
    queries, acc, top, total, start, past, end, entry, k_pool, v_pool, table, kv_head, k_zero, v_zero, factor, slope, d,
    m, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, K_FORM: tl.constexpr, V_FORM: tl.constexpr,
    WINDOW: tl.constexpr, ALIBI: tl.constexpr, BN: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax, over the positions from `start` on: the next `acc`, `top` and `total`.

    `entry` is the block of the position `start`, which was read a step before; it serves where a block has whole tiles.
    """
    n = tl.arange(0, BN)
    at = start + n
    inside = (d < D)[None, :]
    if MASKED:
        inside = inside & (at < end)[:, None]
    if BLOCK % BN == 0:
        base = (entry.to(tl.int64) * BLOCK + start % BLOCK) * (KV_HEADS * D) + kv_head * D
        offset = (n * (KV_HEADS * D))[:, None] + d[None, :]
    else:
        valid = at < end
        slot = tl.load(table + at // BLOCK, mask=valid, other=0).to(tl.int64) * BLOCK + at % BLOCK
        base = tl.zeros((), tl.int64) + kv_head * D
        offset = (slot * (KV_HEADS * D))[:, None] + d[None, :]
    keys = widened(tl.load(k_pool + base + offset, mask=inside, other=0), k_zero, K_FORM, queries.dtype)
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
    distance = at[None, :] - (past + m)[:, None]
    if ALIBI:
        scores = scores * factor + slope * distance.to(tl.float32)
        factor = 1.0
    if MASKED:
        visible = distance <= 0
        if WINDOW >= 0:
            visible = visible & (distance >= -WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
    highest = tl.maximum(top, tl.max(scores, 1) * factor)
    p = tl.exp2(scores * factor - highest[:, None])
    kept = tl.exp2(top - highest)
    values = widened(tl.load(v_pool + base + offset, mask=inside, other=0), v_zero, V_FORM, queries.dtype)
    acc = tl.dot(p.to(queries.dtype), values, acc * kept[:, None], input_precision="ieee")
    return acc, highest, total * kept + tl.sum(p, 1)
