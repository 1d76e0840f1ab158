"""Where tokens enter a graph, and where logits leave it."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.ir.analysis import constant_values
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.passes.parallel.kinds import ELEMENTWISE


def token_lookups(graph: Graph) -> list[Op]:
    """The lookups of tokens in a constant table. Positions are counted, tokens are given: no `iota` is behind them."""
    constant = constant_values(graph)
    return [
        op
        for op in graph.find("embedding")
        if op.operands[0].name in constant
        and not any(made.kind.name == "iota" for made in _behind(graph, op.operands[1]))
    ]


def heads(graph: Graph) -> list[Op]:
    """The linears with constant weights whose results are outputs, as they are or after elementwise ops."""
    constant = constant_values(graph)
    states = graph.states()
    found: dict[str, Op] = {}
    for role, value in graph.outputs.items():
        op = graph.producers.get(value.name) if role not in states else None
        while op is not None and op.kind.name in ELEMENTWISE:
            varying = [operand for operand in op.operands if operand.name not in constant]
            op = graph.producers.get(varying[0].name) if len(varying) == 1 else None
        if op is not None and op.kind.name == "linear" and all(v.name in constant for v in op.operands[1:]):
            found[op.name] = op
    return list(found.values())


def _behind(graph: Graph, value: Value) -> Iterator[Op]:
    """The ops that a value is computed by."""
    seen = {value.name}
    stack = [value]
    while stack:
        op = graph.producers.get(stack.pop().name)
        if op is None:
            continue
        yield op
        stack += [operand for operand in op.operands if operand.name not in seen]
        seen.update(operand.name for operand in op.operands)
