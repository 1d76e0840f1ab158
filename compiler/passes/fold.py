"""The pass `fold`: it folds constants and drops ops by algebraic identities."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from compiler.errors import GraphError
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import Replacement, RewriteBuilder, Visitor, sweep
from compiler.ir.rules import rule_visitor
from compiler.passes.identities import IDENTITIES
from compiler.passes.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.ir.interpreter import Interpreter

# A graph's text holds its literals: beyond this a computed one would not be readable, and no file is read for one.
LARGEST_LITERAL = 4096


@register("fold")
def fold(graph: Graph) -> Graph:
    """Compute small arithmetic on literals, and drop or join ops that change nothing (`x * 1`, a reshape of a reshape).

    What the graph computes stays the same, bit for bit. No weight is read.
    """
    while True:
        folded = sweep(graph, _visitor(), pass_name="fold")
        if folded is graph:
            return graph
        graph = folded


def _visitor() -> Visitor:
    literals: dict[str, Op] = {}
    by_rule = rule_visitor(IDENTITIES, pass_name="fold")

    def visit(op: Op, builder: RewriteBuilder) -> Replacement:
        if op.kind.name == "literal":
            literals[op.name] = op
            return None
        if op.operands and all(value.name in literals for value in op.operands):
            value = _folded(op, [literals[value.name] for value in op.operands], builder)
            if value is not None:
                literals[op.name] = builder.ops[-1]  # under the name that the sweep gives it
                return value
        return by_rule(op, builder)

    return visit


def _folded(op: Op, operands: list[Op], builder: RewriteBuilder) -> Value | None:
    """The op's result as a literal; None if it is not small, or cannot be computed here."""
    if len(op.results) > 1 or not op.results[0].type.is_fixed:
        return None
    type_ = op.results[0].type
    if type_.elements > LARGEST_LITERAL or any(literal.result.type.elements > LARGEST_LITERAL for literal in operands):
        return None
    interpreter = _interpreter()
    try:
        tensors = [interpreter.evaluate(literal, [], {})[0] for literal in operands]
        result = interpreter.evaluate(op, tensors, {})[0]
    except GraphError:  # a kind that the interpreter does not know, or a type that torch does not have
        return None
    return builder.literal(dtype=type_.dtype, shape=type_.shape, values=_values(result))


def _values(tensor: Tensor) -> tuple[float, ...]:
    """A literal's values: one, if all are alike to the last bit."""
    wide = tensor.double() if tensor.is_floating_point() else tensor.long()
    # A not-a-number is always the same object: two others never compare equal.
    values = tuple([math.nan if value != value else value for value in wide.reshape(-1).tolist()])
    return values[:1] if len(set(map(repr, values))) == 1 else values


@cache
def _interpreter() -> Interpreter:
    # Not imported with this module: torch takes a second, which `llmc passes` need not take.
    from compiler.ir.frozen import EMPTY
    from compiler.ir.interpreter import Interpreter

    return Interpreter(Graph("literals", (), (), EMPTY))
