"""Putting quantized weights in the place of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep

PASS_NAME = "quant"

Emit = Callable[[Op, RewriteBuilder], Value]
"""Appends what replaces a linear, which is on rewritten operands; returns the value that replaces its result."""


def rewrite_linears(graph: Graph, emits: Mapping[str, Emit]) -> Graph:
    """The graph with some linears replaced; `emits` says by what, by the linear's name."""

    def visit(op: Op, b: RewriteBuilder) -> Value | None:
        emit = emits.get(op.name)
        return emit(op, b) if emit else None

    return sweep(graph, visit, pass_name=PASS_NAME)


def dequantized_linear(
    op: Op, b: RewriteBuilder, quantized: Value, scale: Value, zero: Value | None = None, *, x: Value | None = None
) -> Value:
    """Append `op` with its weight replaced by `dequantize(quantized, scale, zero)`; returns its result.

    Args:
        op: the linear.
        b: the builder of a sweep that visits it.
        quantized: the weight, `[N, K]`, such as a `const` over a stored tensor.
        scale: its scales, `[N, 1]`, `[N, K / group]` or `[1, 1]`.
        zero: its zero points, of the scale's shape and the weight's type.
        x: what stands for the input of the linear; its own if none is given.
    """
    old, *bias = op.operands[1:]
    weight = b.dequantize(quantized, scale, zero, dtype=old.type.dtype, name="weight")
    return b.linear(x or op.operands[0], weight, *bias)
