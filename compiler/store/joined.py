"""The constants of all ranks as one graph, so that what they have in common is computed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compiler.ir.analysis import constant_values
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value, make_op


@dataclass(frozen=True)
class Joined:
    """The constants of several graphs.

    Attributes:
        graph: a graph whose outputs are the constants.
        uses: for each of these values, the graphs that want it, by number, and the name that it has there.
    """

    graph: Graph
    uses: Mapping[str, Sequence[tuple[int, str]]]


def joined_constants(graphs: Sequence[Graph], wanted: Sequence[Sequence[Value]]) -> Joined:
    """The constants that each of several graphs over the same checkpoint wants; equal ops become one."""
    ops: dict[Any, Op] = {}
    taken: set[str] = set()
    uses: dict[str, list[tuple[int, str]]] = defaultdict(list)
    outputs: dict[str, Value] = {}
    for number, graph in enumerate(graphs):
        values = _add(graph, number, ops, taken)
        for value in wanted[number]:
            joined = values[value.name]
            uses[joined.name].append((number, value.name))
            outputs[joined.name] = joined
    first = graphs[0]
    joined_graph = replace(first.with_ops(tuple(ops.values()), {}), inputs=(), outputs=FrozenDict(outputs))
    return Joined(joined_graph, uses)


def _add(graph: Graph, number: int, ops: dict[Any, Op], taken: set[str]) -> dict[str, Value]:
    """Add the constant ops of a graph that are not there yet; returns what each constant became.

    Names stay, because messages say them, but for those that another graph has for something else.
    """
    constant = constant_values(graph)
    values: dict[str, Value] = {}
    for op in graph.ops:
        if op.results[0].name not in constant:
            continue
        operands = tuple(values[value.name] for value in op.operands)
        key = (op.kind.name, operands, tuple(op.attrs.items()))
        if key not in ops:
            names = tuple(v.name if v.name not in taken else f"rank{number}/{v.name}" for v in op.results)
            taken.update(names)
            ops[key] = make_op(op.kind, operands, dict(op.attrs), names, op.origin)
        values.update((old.name, new) for old, new in zip(op.results, ops[key].results, strict=True))
    return values
