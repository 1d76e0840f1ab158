"""Graphs of one attention, as frontends write it and as they do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compiler.ir.builder import Builder
from compiler.ir.dims import Shape, symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange, Graph
from compiler.ir.op import Value
from compiler.ir.torch_types import to_torch
from compiler.ir.trace import Trace
from compiler.ir.verifier import verify
from compiler.passes.fuse_attention import FuseAttention

B, S, C = symbol("B"), symbol("S"), symbol("C")
Change = Callable[[Builder, Value], Value]


def attention_graph(
    *,
    heads: int = 4,
    kv_heads: int = 4,
    width: int = 8,
    value_width: int = 8,
    dtype: DType = DType.f32,
    scale: float = 0.5,
    mask: Shape | None = (B, 1, S, C),
    bias: Shape | None = None,
    hidden: float = -math.inf,
    axis: int = -1,
    queries: Change | None = None,
    scored: Change | None = None,
    seen: Change | None = None,
) -> Graph:
    """Attention from given queries and caches.

    Args:
        mask: the mask's shape; None for no mask.
        bias: the bias's shape; None for no bias.
        hidden: what stands where the mask hides.
        axis: what the softmax runs over.
        queries: what is done to the queries first.
        scored: what is done to the scaled scores.
        seen: what is done to the probabilities.
    """
    b = Builder()
    b.dims = {"B": DimRange(1, 2, 4), "S": DimRange(1, 3, 8), "C": DimRange(1, 5, 8)}
    group = heads // kv_heads
    q = b.input("q", dtype, B, heads, S, width)
    k, v = b.input("k", dtype, B, kv_heads, C, width), b.input("v", dtype, B, kv_heads, C, value_width)
    q = queries(b, q) if queries else q
    if group > 1:
        q = b.reshape(q, shape=(B, kv_heads, group * S, width), name="folded")
    scores = b.matmul(q, k, transpose_b=True, name="product")
    if group > 1:
        scores = b.reshape(scores, shape=(B, heads, S, C), name="product.heads")
    if scale != 1.0:
        scores = b.scale(scores, factor=scale, name="scaled")
    scores = scored(b, scores) if scored else scores
    if bias is not None:
        scores = b.add(b.input("bias", dtype, *bias), scores, name="biased")
    if mask is not None:
        minus_infinity = b.literal(dtype=dtype, shape=(1,), values=(hidden,), name="minus_infinity")
        scores = b.where(b.input("mask", DType.bool, *mask), scores, minus_infinity, name="masked")
    probs = b.softmax(scores, axis=axis, name="probs")
    probs = seen(b, probs) if seen else probs
    if group > 1:
        probs = b.reshape(probs, shape=(B, kv_heads, group * S, C), name="probs.folded")
    context = b.matmul(probs, v, name="context")
    if group > 1:
        context = b.reshape(context, shape=(B, heads, S, value_width), name="context.heads")
    b.output("y", context)
    return b.build()


def attention_inputs(graph: Graph, seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """Random inputs in the graph's types; every query sees the first key at least."""
    generator = torch.Generator().manual_seed(seed)
    known: dict[str, int] = {"B": 2, "S": 3, "C": 5} | sizes
    inputs: dict[str, Any] = {}
    for value in graph.inputs:
        noise = torch.randn(value.type.sizes(known), generator=generator)
        if value.type.dtype is DType.bool:
            inputs[value.name] = noise > 0
            inputs[value.name][..., 0] = True
        else:
            inputs[value.name] = noise.to(to_torch(value.type.dtype))
    return inputs


def fused(graph: Graph, mode: str = "fp32") -> tuple[Graph, str]:
    """The graph after the pass, verified, and what `--explain` prints."""
    trace = Trace()
    with trace.active():
        result = FuseAttention(mode)(graph)  # type: ignore[arg-type]
    verify(result)
    return result, trace.text()
