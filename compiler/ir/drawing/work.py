"""What an op costs in a step of usual sizes, and how large the weights are that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from compiler.ir.analysis import constant_values, stored_values
from compiler.ir.cost import Cost, graph_cost, step_sizes
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.step import StepDim


class Work(NamedTuple):
    """What one op costs in one step.

    Attributes:
        weights: bytes of the stored tensors that it needs, whole, as they are stored (a quantized weight in its few
            bits).
        moved: bytes of what it reads and writes; see `compiler.ir.cost`.
        flops: floating-point operations.
    """

    weights: int = 0
    moved: int = 0
    flops: int = 0


def usual_sizes(graph: Graph) -> dict[str, int]:
    """The size of each symbolic dim: of a step those of one more token of each sequence of a usual batch.

    Sequences are as long as is usual. Of a graph that is no step each dim has its usual size; 1 of one that the graph
    gives no range for.
    """
    names = dict.fromkeys(name for value in graph.values.values() for name in value.type.symbols)
    sizes = {**dict.fromkeys(names, 1), **{name: dim.opt for name, dim in graph.dims.items()}}
    if StepDim.BATCH in sizes and StepDim.CAPACITY in sizes:
        sizes |= step_sizes(graph, batch=sizes[StepDim.BATCH], new=1, past=sizes[StepDim.CAPACITY] - 1)
    return sizes


def work_of(graph: Graph) -> list[Work]:
    """What each op of a graph costs, in order; nothing if it is computed before the first step."""
    costs = graph_cost(graph, usual_sizes(graph)).by_op
    constant, nothing = constant_values(graph), Cost()
    works = []
    for op, weights in zip(graph.ops, weights_of(graph), strict=True):
        runs = any(value.name not in constant for value in op.results)
        cost = costs[op.name].cost if runs else nothing
        works.append(Work(weights, cost.moved, cost.flops))
    return works


def weights_of(graph: Graph) -> list[int]:
    """The bytes of the stored tensors that each op needs, in order; none if it is computed before the first step."""
    constant, stored = constant_values(graph), stored_values(graph)
    behind: dict[str, frozenset[str]] = {}
    weights = []
    for op in graph.ops:
        if op.name in stored:
            weights.append(0)
            continue
        sources = frozenset().union(*(_sources(v, stored, behind) for v in op.operands if v.name in constant))
        runs = any(value.name not in constant for value in op.results)
        if not runs:
            behind |= dict.fromkeys((v.name for v in op.results), sources)
        weights.append(sum(graph.values[name].type.nbytes for name in sources) if runs else 0)
    return weights


def _sources(value: Value, stored: frozenset[str], behind: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The stored tensors that a constant is computed from when the graph runs."""
    return frozenset({value.name}) if value.name in stored else behind.get(value.name, frozenset())
