"""Rewriting a plan's graph into the form that TensorRT's kernels are fastest for."""

from __future__ import annotations

from collections.abc import Collection, Set

from compiler.ir.analysis import stored_values
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import Replacement, RewriteBuilder, sweep


def apart(graph: Graph, kept: Collection[str] = ()) -> Graph:
    """The graph with every linear whose result is only split as one linear for each piece, over rows of its weight.

    Linears whose names are in `kept` stay as they are.
    """
    constant = stored_values(graph)
    splits = {
        op.name for op in graph.find("split") if _joins_linears(op, graph, constant) and op.operands[0].name not in kept
    }

    def visit(op: Op, b: RewriteBuilder) -> Replacement:
        return _pieces(op, b) if op.name in splits else None

    return sweep(graph, visit, pass_name="") if splits else graph


def _joins_linears(split: Op, graph: Graph, constant: Set[str]) -> bool:
    whole = split.operands[0]
    op = graph.producers.get(whole.name)
    return (
        op is not None
        and op.kind.name == "linear"
        and split.attrs["axis"] % whole.type.rank == whole.type.rank - 1
        and list(graph.users[whole.name]) == [split]
        and whole not in graph.outputs.values()
        and all(value.name in constant for value in op.operands[1:])
    )


def _pieces(split: Op, b: RewriteBuilder) -> tuple[Value, ...]:
    linear = b.producer(split.operands[0])
    assert linear is not None
    x, *parameters = linear.operands
    # The pieces take over the names of the split's results, which go.
    b.prefix = ""
    b.taken.difference_update(value.name for value in split.results)
    pieces, start = [], 0
    for result, size in zip(split.results, split.attrs["sizes"], strict=True):
        rows = [
            b.slice(value, axis=0, start=start, size=size, name=f"{value.name}.{start}.{start + size}")
            for value in parameters
        ]
        pieces.append(b.linear(x, *rows, name=result.name))
        start += size
    return tuple(pieces)
