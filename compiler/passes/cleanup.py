"""Passes that clean a graph: `dce`, `cse`, and `cleanup`, which runs both of them and `fold`."""

from __future__ import annotations

from collections.abc import Hashable

from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, eliminate_dead, sweep
from compiler.passes.fold import fold
from compiler.passes.registry import register


@register("cse")
def cse(graph: Graph) -> Graph:
    """Compute equal things once: of ops with the same kind, operands and attributes only the first stays.

    Every op is a function of its operands and attributes; `random`s are equal only if their keys are.
    """
    first: dict[Hashable, tuple[Value, ...]] = {}

    def visit(op: Op, builder: RewriteBuilder) -> tuple[Value, ...] | None:
        # Attributes as text, which tells 0.0 from -0.0 and 1 from 1.0; a tensor reference holds nothing of the kind.
        attrs = op.attrs if op.kind.name == "const" or not op.attrs else repr(op.attrs)
        key = op.kind.name, tuple([value.name for value in op.operands]), attrs
        known = first.setdefault(key, op.results)
        return None if known is op.results else known

    return sweep(graph, visit, pass_name="cse")


@register("dce")
def dce(graph: Graph) -> Graph:
    """Remove ops whose results nothing needs. Inputs stay."""
    return eliminate_dead(graph)


@register("cleanup")
def cleanup(graph: Graph) -> Graph:
    """Fold, merge equal ops and remove dead ones, until there is nothing left to do (`fold`, `cse` and `dce`)."""
    while True:
        cleaned = cse(fold(dce(graph)))
        if cleaned is graph:
            return graph
        graph = cleaned
