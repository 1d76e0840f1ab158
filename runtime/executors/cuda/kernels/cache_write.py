"""Writes the new keys and values of a packed step into pools of blocks, and turns its queries."""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.executors.cuda.kernels.dependent import wait_for_kernel_before
from runtime.executors.cuda.kernels.elements import head_parameter, load_rotated, quantized


@triton.jit(do_not_specialize=["tokens", "table_stride"])
def write_cache(
    q, k, v, k_pool, v_pool, positions, rows, tables, cos, sin, k_scales, v_scales, k_zeros, v_zeros, context,
    tokens, q_stride, k_stride, v_stride, table_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, R: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr, K_FORM: tl.constexpr, V_FORM: tl.constexpr,
    K_SCALES: tl.constexpr, V_SCALES: tl.constexpr, K_ZEROS: tl.constexpr, V_ZEROS: tl.constexpr,
    BR: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Rotate keys, quantize keys and values, and write them; leave the rotated queries where the context goes.

    The context of padding is set to 0. A program has `BR` pairs of a token and a head: the first `cdiv(tokens *
    KV_HEADS, BR)` have key heads; if something is turned (`R` is not 0), `cdiv(tokens * HEADS, BR)` more have query
    heads. `q` is `[T, HEADS * D]`, `k` and `v` are `[T, KV_HEADS * D]`, the pools `[N, BLOCK, KV_HEADS,
    D]`; `DP` is the power of two from `D` on, `K_SCALES` to `V_ZEROS` are the strides of `head_parameter`.
    """
    wait_for_kernel_before(EARLY)
    program = tl.program_id(0)
    of_keys = tl.cdiv(tokens * KV_HEADS, BR)
    d = tl.arange(0, DP)[None, :]
    if program < of_keys:
        pair = (program * BR + tl.arange(0, BR))[:, None]
        token = pair // KV_HEADS
        head = pair % KV_HEADS
        there = pair < tokens * KV_HEADS
        row = tl.load(rows + token, mask=there, other=-1)
        live = row >= 0
        position = tl.load(positions + token, mask=live, other=0)
        entry = tl.load(tables + row * table_stride + position // BLOCK, mask=live, other=0).to(tl.int64)
        at = ((entry * BLOCK + position % BLOCK) * KV_HEADS + head) * D + d
        mask = live & (d < D)
        token = token.to(tl.int64)
        key = load_rotated(
            k + token * k_stride + head * D, token * (R // 2), cos, sin, live, D, DP, R, INTERLEAVED
        )  # fmt: skip
        value = tl.load(v + token * v_stride + head * D + d, mask=mask, other=0.0)
        k_scale = head_parameter(k_scales, head, K_SCALES, 1.0)
        v_scale = head_parameter(v_scales, head, V_SCALES, 1.0)
        k_zero = head_parameter(k_zeros, head, K_ZEROS, 0.0)
        v_zero = head_parameter(v_zeros, head, V_ZEROS, 0.0)
        tl.store(k_pool + at, quantized(key, k_scale, k_zero, K_FORM, k_pool.dtype.element_ty), mask=mask)
        tl.store(v_pool + at, quantized(value, v_scale, v_zero, V_FORM, v_pool.dtype.element_ty), mask=mask)
        if R == 0:
            for member in tl.static_range(HEADS // KV_HEADS):
                query = head * (HEADS // KV_HEADS) + member
                to = context + (token * HEADS + query) * D + d
                padding = there & (row < 0) & (d < D)
                tl.store(to, tl.zeros((BR, DP), context.dtype.element_ty), mask=padding)
    elif R > 0:
        pair = ((program - of_keys) * BR + tl.arange(0, BR))[:, None]
        token = pair // HEADS
        head = pair % HEADS
        there = pair < tokens * HEADS
        live = tl.load(rows + token, mask=there, other=-1) >= 0
        token = token.to(tl.int64)
        query = load_rotated(
            q + token * q_stride + head * D, token * (R // 2), cos, sin, live, D, DP, R, INTERLEAVED
        )  # fmt: skip
        to = context + (token * HEADS + head) * D + d
        tl.store(to, query.to(context.dtype.element_ty), mask=there & (d < D))
