"""Where tokens enter a graph, and where logits leave it."""

from __future__ import annotations

from collections.abc import Iterator, Set

from compiler.ir.analysis import constant_values
from compiler.ir.graph import Graph
from compiler.ir.op import OPS, Op, Value
from compiler.passes.parallel.kinds import ELEMENTWISE


def token_lookups(graph: Graph) -> list[Op]:
    """The lookups of tokens in a constant table of the whole vocabulary.

    Positions are counted, tokens are given: no `iota` is behind them. A table of fewer rows than the vocabulary has is
    of something else, such as virtual tokens, and one that is in shards already is not whole.
    """
    constant = constant_values(graph)
    vocabulary = graph.facts.get("vocab_size", 0)
    least = vocabulary if isinstance(vocabulary, int) else 0
    return [
        op
        for op in graph.find("embedding")
        if op.operands[0].name in constant
        and _is_whole(graph, op.operands[0], least)
        and not any(made.kind.name == "iota" for made in _behind(graph, op.operands[1]))
    ]


def _is_whole(graph: Graph, table: Value, rows: int) -> bool:
    """Whether a constant table has at least so many rows, and is no shard."""
    count = table.type.shape[0]
    enough = isinstance(count, int) and count >= rows
    return enough and all(made.kind.name != "shard" for made in _behind(graph, table))


def heads(graph: Graph) -> list[Op]:
    """The linears with constant weights whose results are outputs, as they are or after elementwise ops.

    An op of a plug-in may follow too, if its result has the shape of its only operand that is no constant: it is given
    what the ranks have put together again.
    """
    return [op for op in _makers(graph) if _is_head(graph, op)]


def hidden_heads(graph: Graph) -> list[Op]:
    """The ops that `heads` came to and that are no linears with constant weights: what keeps an output head whole."""
    return [op for op in _makers(graph) if not _is_head(graph, op)]


def _is_head(graph: Graph, op: Op) -> bool:
    constant = constant_values(graph)
    return op.kind.name == "linear" and all(value.name in constant for value in op.operands[1:])


def _makers(graph: Graph) -> list[Op]:
    """What makes the outputs that are no caches, before elementwise ops."""
    constant = constant_values(graph)
    states = graph.states()
    found: dict[str, Op] = {}
    for role, value in graph.outputs.items():
        op = graph.producers.get(value.name) if role not in states else None
        while op is not None and (varying := _followed(op, constant)) is not None:
            before = graph.producers.get(varying.name)
            if before is None:
                break
            op = before
        if op is not None:
            found[op.name] = op
    return list(found.values())


def _followed(op: Op, constant: Set[str]) -> Value | None:
    """The operand that an op changes element by element, as far as can be told."""
    varying = [operand for operand in op.operands if operand.name not in constant]
    if len(varying) != 1 or len(op.results) != 1:
        return None
    is_elementwise = op.kind.name in ELEMENTWISE
    same_shape = not OPS.is_own(op.kind.name) and varying[0].type.shape == op.result.type.shape
    return varying[0] if is_elementwise or same_shape else None


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
