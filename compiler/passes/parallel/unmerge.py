"""Taking apart linears that compute several things at once."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep
from compiler.passes.parallel.kinds import UNARY


def unmerge_linears(graph: Graph, pass_name: str) -> Graph:
    """A linear for each piece of a linear whose outputs are split, so that each can be placed by itself.

    The inverse of `merge-linears`, also where the checkpoint stores the weights that way and something elementwise is
    done before the split.
    """

    def visit(op: Op, b: RewriteBuilder) -> Sequence[Value] | None:
        if op.kind.name != "split" or op.attrs["axis"] % op.operands[0].type.rank != op.operands[0].type.rank - 1:
            return None
        return _pieces(b, op.operands[0], op.attrs["sizes"])

    return sweep(graph, visit, pass_name=pass_name)


def _pieces(b: RewriteBuilder, x: Value, sizes: tuple[int, ...]) -> Sequence[Value] | None:
    """The pieces of a value along its last axis, if they can be computed one by one from a linear's pieces."""
    op = b.producer(x)
    if op is None:
        return None
    if op.kind.name in UNARY:
        inner = _pieces(b, op.operands[0], sizes)
        return None if inner is None else [b.emit(op.kind, (piece,), op.attrs)[0] for piece in inner]
    if op.kind.name != "linear" or not all(map(b.is_constant, op.operands[1:])):
        return None
    parameters = zip(*(_parts(b, value, sizes) for value in op.operands[1:]), strict=True)
    return [b.linear(op.operands[0], *each, name="linear") for each in parameters]


def _parts(b: RewriteBuilder, value: Value, sizes: tuple[int, ...]) -> Sequence[Value]:
    """Consecutive rows of a constant: what it was joined from, if it was joined in the same places."""
    joined = b.producer(value)
    by_rows = joined is not None and joined.kind.name == "concat" and joined.attrs["axis"] % value.type.rank == 0
    if joined is not None and by_rows and tuple(part.type.shape[0] for part in joined.operands) == sizes:
        return joined.operands
    names = tuple([f"{value.name.rpartition('.')[2]}.part{i}" for i in range(len(sizes))])
    return b.split(value, axis=0, sizes=sizes, names=names)
