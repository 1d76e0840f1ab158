"""Linears whose inputs are sorted before they are multiplied, as those of GPTQ with activation order are.

Their weights are quantized in groups of columns from anywhere, which are stored side by side, and the input is brought
into their order. A rank that has a part of the input could not sort it. So the weight of such a linear, if it is to be
split by its inputs, is dequantized when it is stored, and its columns go back to their places: it takes 16 bits then.
"""

from __future__ import annotations

from collections.abc import Collection

from compiler.ir.analysis import constant_values
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep

_SWAPPED = (0, 2, 1)


def sorted_linears(graph: Graph) -> dict[str, tuple[Value, Value]]:
    """By the name of each linear over a sorted input and a quantized weight: what is sorted, and the order `i32[K]`."""
    constant = constant_values(graph)
    found = {}
    for op in graph.find("linear"):
        weight = graph.producers.get(op.operands[1].name)
        if weight is not None and weight.kind.name == "dequantize" and weight.name in constant:
            source = _sorted(graph, op.operands[0])
            if source is not None and source[1].name in constant:
                found[op.name] = source
    return found


def unsort(graph: Graph, names: Collection[str], pass_name: str) -> Graph:
    """The graph in which some of the linears of `sorted_linears` read what was sorted, in its own order."""
    sources = {name: source for name, source in sorted_linears(graph).items() if name in names}
    if not sources:
        return graph

    def visit(op: Op, b: RewriteBuilder) -> Value | None:
        if op.name not in sources:
            return None
        x, order = sources[op.name]
        weight = b.producer(op.operands[1])
        assert weight is not None
        return b.linear(x, _in_place(_dequantized(weight, b), order, b), *op.operands[2:])

    return sweep(graph, visit, pass_name=pass_name)


def _sorted(graph: Graph, value: Value) -> tuple[Value, Value] | None:
    """What `value [B, S, K]` is, brought into an order along its last axis; and the order."""
    swapped = graph.producers.get(value.name)
    gathered = _before(graph, swapped, "transpose", perm=_SWAPPED)
    features = _before(graph, gathered, "gather_rows")
    if gathered is None or features is None or features.kind.name != "transpose":
        return None
    rows = graph.producers.get(gathered.operands[1].name)
    row = _before(graph, rows, "broadcast")
    order = row.operands[0] if row is not None and row.kind.name == "reshape" else None
    if features.attrs["perm"] != _SWAPPED or order is None or order.type.shape != value.type.shape[-1:]:
        return None
    return features.operands[0], order


def _before(graph: Graph, op: Op | None, kind: str, **attrs: object) -> Op | None:
    """What makes the first operand of an op of that kind."""
    if op is None or op.kind.name != kind or any(op.attrs[name] != value for name, value in attrs.items()):
        return None
    return graph.producers.get(op.operands[0].name)


def _dequantized(op: Op, b: RewriteBuilder) -> Value:
    """What a `dequantize` gives, in ops that are computed when weights are stored."""
    q, scale, *zero = op.operands
    (rows, columns), (blocks, groups) = q.type.sizes({}), scale.type.sizes({})

    def broadcast(value: Value, name: str) -> Value:
        wide = value if value.type.dtype is DType.f32 else b.cast(value, dtype=DType.f32, name=f"{name}.f32")
        return b.reshape(wide, shape=(blocks, 1, groups, 1), name=f"{name}.blocks")

    shape = (blocks, rows // blocks, groups, columns // groups)
    codes = b.reshape(b.cast(q, dtype=DType.f32, name="weight.codes"), shape=shape, name="weight.blocks")
    if zero:
        codes = b.sub(codes, broadcast(zero[0], "weight.zero"), name="weight.centred")
    wide = b.mul(codes, broadcast(scale, "weight.scale"), name="weight.scaled")
    flat = b.reshape(wide, shape=(rows, columns), name="weight.f32")
    return flat if op.attrs["dtype"] is DType.f32 else b.cast(flat, dtype=op.attrs["dtype"], name="weight.wide")


def _in_place(weight: Value, order: Value, b: RewriteBuilder) -> Value:
    """A weight `[N, K]` whose columns were brought into an order, before that."""
    count = order.type.sizes({})[0]
    inverse = b.group_order(order, count=count, name="weight.inverse")
    columns = b.embedding(b.transpose(weight, perm=(1, 0), name="weight.sorted"), inverse, name="weight.columns")
    return b.transpose(columns, perm=(1, 0), name="weight")
