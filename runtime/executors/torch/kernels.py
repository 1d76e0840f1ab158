"""The kernels that lowered graphs call, beyond what torch has under one name."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.ir.cache_layout import LINEAR
from compiler.ir.evaluators.quant import dequantize, quantize
from runtime.collectives.communicator import Communicator

__all__ = ["dequantize", "quantize"]

Angles = tuple[Tensor, Tensor]


append = LINEAR.append
"""Writes a step's new keys and values into a cache."""


def half_angles(cos: Tensor, sin: Tensor) -> Angles:
    """Cosines and signed sines `[B, 1, S, R]` for `rotate_halves`, from `[B, S, R/2]`."""
    return torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None]


def rotate_halves(x: Tensor, angles: Angles) -> Tensor:
    """Rotary embedding of pairs `(x[i], x[i + R/2])` over the first R dims of `x [B, heads, S, D]`."""
    cos, sin = angles
    width = cos.shape[-1]
    turning = x[..., :width]
    result = x.to(cos.dtype, copy=True)
    result[..., :width].mul_(cos).addcmul_(turning.roll(width // 2, -1).to(cos.dtype), sin)
    return result.to(x.dtype)


def pair_angles(cos: Tensor, sin: Tensor) -> Tensor:
    """Complex angles `[B, 1, S, R/2]` for `rotate_pairs`."""
    return torch.complex(cos, sin)[:, None]


def rotate_pairs(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding of pairs `(x[2i], x[2i+1])` over the first R dims of `x [B, heads, S, D]`."""
    width = 2 * angles.shape[-1]
    result = x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    torch.view_as_complex(result[..., :width].unflatten(-1, (-1, 2))).mul_(angles)
    return result.to(x.dtype)


def additive_mask(mask: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`bias` (or 0) where `mask` holds and minus infinity elsewhere, of four dimensions; computed once a step."""
    if bias is None:
        bias = torch.zeros((), dtype=dtype, device=mask.device)
    result = torch.where(mask, bias, float("-inf")).to(dtype)
    return result[(None,) * (4 - result.dim())]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, *, causal: bool = False) -> Tensor:
    """Attention of `q [B, heads, S, D]` over whole caches `k`, `v` `[B, kv_heads, C, D]` under an additive mask.

    Without a mask every key is seen, or with `causal`, where there are as many keys as queries, those up to the query.

    Nothing is rounded between the steps where `q`, `k` and `v` are float32, as on a CPU. With 16-bit ones, on a GPU,
    scores and softmax are float32 within torch's kernels, which may round the probabilities to 16 bits.

    With one query a row, the query heads that share a key head are folded into the query length, so that no key is
    repeated.
    """
    batch, heads, length, width = q.shape
    kv_heads = k.shape[LINEAR.HEAD]
    product = torch.nn.functional.scaled_dot_product_attention
    if heads == kv_heads:
        return product(q, k, v, attn_mask=mask, scale=scale, is_causal=causal)
    if length > 1:
        return product(q, k, v, attn_mask=mask, scale=scale, is_causal=causal, enable_gqa=True)
    folded = q.reshape(batch, kv_heads, heads // kv_heads, width)
    by_group = None
    if mask is not None:
        by_group = mask.expand(batch, heads, 1, -1).reshape(batch, kv_heads, heads // kv_heads, -1)
    return product(folded, k, v, attn_mask=by_group, scale=scale).reshape(batch, heads, 1, -1)


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """`y[b, r] = x[b, rows[b, r]]`."""
    if x.shape[1] == 1 and rows.shape[1] == 1:
        return x
    return x[torch.arange(x.shape[0], device=x.device)[:, None], rows]


def all_reduce(x: Tensor, group: Communicator) -> Tensor:
    """The sum of `x` over the ranks of the group, rounded once to the type of `x`, which stays as it is."""
    wide = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else x.dtype
    total = x.to(wide, copy=True, memory_format=torch.contiguous_format)
    return group.all_reduce(total).to(x.dtype)
