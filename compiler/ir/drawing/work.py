"""What an op costs at the usual sizes of a graph: bytes of weights, bytes read and written, FLOPs of products."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from compiler.ir.analysis import constant_values, stored_values
from compiler.ir.dims import Dim, evaluate
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value


class Work(NamedTuple):
    """What one op costs in one step.

    Attributes:
        weights: bytes of the stored tensors that it reads, as they are stored (a quantized weight in its few bits).
        moved: bytes of what it reads and writes: weights, other operands, results. Of an embedding's table only rows.
        flops: two for each multiplication and addition of `linear`, `matmul` and attention; 0 of other ops.
    """

    weights: int = 0
    moved: int = 0
    flops: int = 0


def usual_sizes(graph: Graph) -> dict[str, int]:
    """The usual size of each symbolic dim; 1 of one that the graph gives no range for."""
    names = {name for value in graph.values.values() for name in value.type.symbols}
    return {name: graph.dims[name].opt if name in graph.dims else 1 for name in sorted(names)}


def work_of(graph: Graph) -> list[Work]:
    """What each op of a graph costs at the usual sizes, in order; nothing if it is computed before the first step."""
    sizes, constant, stored = usual_sizes(graph), constant_values(graph), stored_values(graph)
    behind: dict[str, frozenset[str]] = {}
    works = []
    for op in graph.ops:
        sources = frozenset().union(*(_sources(v, stored, behind) for v in op.operands if v.name in constant))
        if all(value.name in constant for value in op.results):
            behind |= dict.fromkeys((v.name for v in op.results), sources)
            works.append(Work())
            continue
        weights = sum(_bytes(graph.values[name], sizes) for name in sources)
        others = {value.name: value for value in (*op.operands, *op.results) if value.name not in constant}
        read = _bytes(op.results[0], sizes) if op.kind.name == "embedding" else weights  # it reads some rows only
        moved = read + sum(_bytes(value, sizes) for value in others.values())
        works.append(Work(weights, moved, _flops(op, sizes)))
    return works


def _sources(value: Value, stored: frozenset[str], behind: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The stored tensors that a constant is computed from when the graph runs."""
    return frozenset({value.name}) if value.name in stored else behind.get(value.name, frozenset())


def _count(shape: tuple[Dim, ...], sizes: Mapping[str, int]) -> int:
    return prod(evaluate(dim, sizes) for dim in shape)


def _bytes(value: Value, sizes: Mapping[str, int]) -> int:
    return (_count(value.type.shape, sizes) * value.type.dtype.bits + 7) // 8


def _flops(op: Op, sizes: Mapping[str, int]) -> int:
    kind, shapes = op.kind.name, [value.type.shape for value in op.operands]
    if kind in ("linear", "matmul"):
        return 2 * _count(op.results[0].type.shape, sizes) * evaluate(shapes[0][-1], sizes)
    if kind == "attention":
        q, k, v = shapes[:3]
        return 2 * _count(q[:-1], sizes) * evaluate(k[-2], sizes) * evaluate(q[-1] + v[-1], sizes)
    if kind == "paged_attention":
        q, pool, tables = shapes[0], shapes[1], shapes[5]
        return 4 * _count(q, sizes) * evaluate(tables[-1], sizes) * evaluate(pool[1], sizes)
    return 0
