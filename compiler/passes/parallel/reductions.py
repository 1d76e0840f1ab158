"""As few sums over the ranks as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep


def merge_reductions(graph: Graph, pass_name: str) -> Graph:
    """`all_reduce(a) + x + all_reduce(b)` becomes `x + all_reduce(a + b)`, for any number of terms in any order.

    Only where nothing else needs a sum or what lies between.
    """
    sums = _sums(graph)
    if not sums:
        return graph

    def visit(op: Op, b: RewriteBuilder) -> Value | None:
        terms = sums.get(op.name)
        if terms is None:
            return None
        partial = reduce(b.add, [graph.producers[value.name].operands[0] for value in terms.reduced])
        total = b.all_reduce(partial, parts=terms.parts)
        return b.add(reduce(b.add, terms.others), total) if terms.others else total

    return sweep(graph, visit, pass_name=pass_name)


@dataclass(frozen=True)
class _Sum:
    """What is added up: the results of all-reduces over `parts` ranks, and the rest."""

    reduced: Sequence[Value]
    others: Sequence[Value]
    parts: int


def _sums(graph: Graph) -> dict[str, _Sum]:
    """By the name of the last addition, the sums with more than one all-reduce."""
    outputs = {value.name for value in graph.outputs.values()}
    inner: set[str] = set()
    found: dict[str, _Sum] = {}
    for op in reversed(graph.ops):
        if op.kind.name != "add" or op.name in inner:
            continue
        terms = _terms(graph, op, outputs, inner)
        reduced = [value for value in terms if _is_private(graph, value, "all_reduce", op, outputs)]
        parts = {graph.producers[value.name].attrs["parts"] for value in reduced}
        if len(reduced) > 1 and len(parts) == 1:
            found[op.name] = _Sum(reduced, [value for value in terms if value not in reduced], parts.pop())
    return found


def _terms(graph: Graph, root: Op, outputs: set[str], inner: set[str]) -> list[Value]:
    """What an addition adds up, through additions that nothing else uses; those are put into `inner`."""
    terms: list[Value] = []
    stack = list(root.operands[::-1])
    while stack:
        value = stack.pop()
        if _is_private(graph, value, "add", root, outputs):
            inner.add(value.name)
            stack += graph.producers[value.name].operands[::-1]
        else:
            terms.append(value)
    return terms


def _is_private(graph: Graph, value: Value, kind: str, root: Op, outputs: set[str]) -> bool:
    """Whether a value is made by such an op, has the sum's type, and only one op uses it, once."""
    producer = graph.producers.get(value.name)
    if producer is None or producer.kind.name != kind or value.type != root.result.type or value.name in outputs:
        return False
    users = graph.users.get(value.name, ())
    return len(users) == 1 and sum(operand.name == value.name for operand in users[0].operands) == 1
