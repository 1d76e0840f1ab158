"""What is computed about values: when they are last used, and which are constant."""

from collections.abc import Callable, Mapping, Set
from functools import wraps
from typing import TypeVar

from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.op import Op

_T = TypeVar("_T")


def _once_per_graph(function: Callable[[Graph], _T]) -> Callable[[Graph], _T]:
    """Decorator: what the function computes of a graph is kept with the graph, which never changes."""

    @wraps(function)
    def kept(graph: Graph) -> _T:
        if function.__name__ not in graph.__dict__:
            graph.__dict__[function.__name__] = function(graph)  # as `functools.cached_property` does
        result: _T = graph.__dict__[function.__name__]
        return result

    return kept


def last_uses(graph: Graph, keep: Set[str] = frozenset()) -> list[tuple[str, ...]]:
    """For each op, the values that nothing needs after it (its own unused results included).

    Outputs and the values in `keep` are never among them.
    """
    needed = {value.name for value in graph.outputs.values()} | keep
    dead_after: list[tuple[str, ...]] = []
    for op in reversed(graph.ops):
        names = {value.name for value in (*op.operands, *op.results)} - needed
        dead_after.append(tuple(sorted(names)))
        needed |= names
    return dead_after[::-1]


@_once_per_graph
def constant_values(graph: Graph) -> frozenset[str]:
    """Names of the values that depend on no input and have no symbolic dims: weights and what is computed from them."""
    constant: set[str] = set()
    for op in graph.ops:
        if is_constant(op, constant):
            constant.update(value.name for value in op.results)
    return frozenset(constant)


@_once_per_graph
def stored_values(graph: Graph) -> frozenset[str]:
    """Names of the constants that an engine stores, or computes as it is built: those that no `dequantize` is behind.

    Quantized weights stay as they are stored; their `dequantize` is part of what runs.
    """
    stored: set[str] = set()
    for op in graph.ops:
        if op.kind.name != "dequantize" and is_constant(op, stored):
            stored.update(value.name for value in op.results)
    return frozenset(stored)


@_once_per_graph
def packed_weights(graph: Graph) -> Mapping[str, Op]:
    """The ops that dequantize what an engine stores, by the name of the result."""
    stored = stored_values(graph)
    found = (op for op in graph.find("dequantize") if all(value.name in stored for value in op.operands))
    return FrozenDict({op.name: op for op in found})


def is_constant(op: Op, constant: Set[str]) -> bool:
    """Whether the results of `op` are constant, given the names of the constants before it."""
    return all(v.name in constant for v in op.operands) and all(v.type.is_fixed for v in op.results)
