"""How far logits may lie from a reference before rounding does not explain it.

Every layer rounds the values on its way to the logits a number of times to the element type, by at most eps / 2 of
their size each, and these errors are as good as independent: over the layers they add up like a random walk, to about
eps * sqrt(layers). Engine and reference both round, and models amplify some errors (a norm divides by what is left
after a subtraction), hence the factor. The logits of the examples, which have four layers, differ by up to 1.7 eps in
16 bits; the tolerance allows ten.

In float32 the order of a sum matters instead: executors sum products in different orders, and a sum of K terms has an
error of about eps * sqrt(K), with K around 4096. In 16 bits sums are done in float32, too, so this error is small
there.

Where activations or caches are quantized to 8 bits, a value near the bound between two codes gets either, and the next
quantization makes more of the difference: of values that differ by e, a share of e / step gets another code, so that e
becomes sqrt(e * step), which after some layers is the step. Two right computations can therefore differ by as much as
quantization itself does, even in float32: the interpreter and itself, given the same tokens in one step or one by one.
But each differs from the model that does not round its activations by about the same, N, which can be measured; and so
from one another by at most 2 N.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from compiler.ir.analysis import constant_values
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, eliminate_dead, sweep

_FACTOR = 5.0
_TERMS = 4096
_SUMMING = torch.finfo(torch.float32).eps * math.sqrt(_TERMS)


def logits_tolerance(dtype: str, layers: int) -> float:
    """The largest relative error of logits that rounding explains: RMS of the difference over RMS of the reference.

    What is quantized while the model runs is not in it: see `unrounded`.

    Args:
        dtype: the element type computed in: `float32`, `float16` or `bfloat16`.
        layers: how many layers the model has.
    """
    return _FACTOR * math.sqrt(layers) * max(torch.finfo(getattr(torch, dtype)).eps, _SUMMING)


def unrounded(graph: Graph) -> Graph | None:
    """The graph without quantization of what is computed while it runs, activations and caches; None if it has none."""
    constant = constant_values(graph)
    if all(op.name in constant for op in graph.find("quantize")):
        return None
    caches: dict[str, Value] = {}
    stored: dict[str, Value] = {}

    def visit(op: Op, b: RewriteBuilder) -> Value | None:
        value: Value | None
        if op.kind.name != "dequantize" or (source := b.producer(op.operands[0])) is None:
            return None
        if source.kind.name in ("kv_update", "paged_kv_update"):
            cache, new, *rest = source.operands
            x = _quantized(new, b)
            if x is None:
                return None
            caches[cache.name] = Value(cache.name, cache.type.with_dtype(x.type.dtype))
            value = b.op(source.kind, caches[cache.name], x, *rest)
            stored[source.name] = op.result if value.type == op.result.type else value  # a last op takes that name
        elif op.name in constant or (value := _quantized(op.operands[0], b)) is None:
            return None
        return value if value.type == op.result.type else b.cast(value, dtype=op.result.type.dtype)

    swept = sweep(graph, visit, pass_name="")
    outputs = {role: stored.get(value.name, value) for role, value in swept.outputs.items()}
    inputs = tuple([caches.get(value.name, value) for value in graph.inputs])
    return eliminate_dead(replace(swept.with_ops(swept.ops, outputs), inputs=inputs))


def _quantized(value: Value, b: RewriteBuilder) -> Value | None:
    """What a value is the quantization of; None if it is none."""
    op = b.producer(value)
    return op.operands[0] if op is not None and op.kind.name == "quantize" else None
