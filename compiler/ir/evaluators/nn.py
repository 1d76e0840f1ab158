"""What the ops of `compiler.ir.ops.nn` compute; see `compiler.ir.evaluators.core`."""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.errors import GraphError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.evaluators.core import Attrs, Rounding, Sizes, evaluates


@evaluates("matmul")
def _matmul(attrs: Attrs, sizes: Sizes, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b.transpose(-1, -2) if attrs["transpose_b"] else b)


@evaluates("softmax")
def _softmax(attrs: Attrs, sizes: Sizes, x: Tensor) -> Tensor:
    return torch.softmax(x, attrs["axis"])


@evaluates("layer_norm")
def _layer_norm(
    attrs: Attrs, sizes: Sizes, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, attrs["eps"])


@evaluates("rms_norm")
def _rms_norm(attrs: Attrs, sizes: Sizes, x: Tensor, weight: Tensor | None = None) -> Tensor:
    return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, attrs["eps"])


@evaluates("rotary")
def _rotary(attrs: Attrs, sizes: Sizes, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos[:, None], sin[:, None]
    turning, rest = x[..., : 2 * cos.shape[-1]], x[..., 2 * cos.shape[-1] :]
    # Pairs as [..., R/2, 2] when interleaved, as [..., 2, R/2] when each half is contiguous.
    pairs = turning.unflatten(-1, (-1, 2) if attrs["interleaved"] else (2, -1))
    axis = -1 if attrs["interleaved"] else -2
    a, b = pairs.unbind(axis)
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], axis).flatten(-2)
    return torch.cat([turned, rest], -1)


def _unrounded(x: Tensor) -> Tensor:
    return x


@evaluates("attention", stepwise=True)
def _attention(
    attrs: Attrs,
    sizes: Sizes,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    rounding: Rounding = _unrounded,
) -> Tensor:
    return attend(q, k, v, mask, bias, attrs["scale"], rounding if attrs["rounded"] else _unrounded)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, bias: Tensor | None, scale: float, step: Rounding = _unrounded
) -> Tensor:
    """The op `attention`, with `step` applied to what `rounded` rounds."""
    group = q.shape[LINEAR.HEAD] // k.shape[LINEAR.HEAD]
    k, v = k.repeat_interleave(group, LINEAR.HEAD), v.repeat_interleave(group, LINEAR.HEAD)
    scores = step(step(q @ k.transpose(-1, -2)) * scale)
    if bias is not None:
        scores = step(scores + bias)
    return step(torch.softmax(scores.masked_fill(~mask, float("-inf")), -1)) @ v


@evaluates("kv_update", exact=True)
def _kv_update(attrs: Attrs, sizes: Sizes, cache: Tensor, new: Tensor, at: Tensor, count: Tensor) -> Tensor:
    result, capacity = cache.clone(), cache.shape[LINEAR.POSITION]
    for row, (start, length) in enumerate(zip(at.tolist(), count.tolist(), strict=True)):
        if start < 0 or start + length > capacity:
            raise GraphError(f"kv_update writes positions [{start}, {start + length}) of a cache of {capacity}")
        result[LINEAR.index(row, slice(start, start + length))] = new[LINEAR.index(row, slice(length))]
    return result
