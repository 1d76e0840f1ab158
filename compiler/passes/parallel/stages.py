"""Where to cut a graph into stages."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf, prod

from compiler.errors import PassError
from compiler.ir.analysis import constant_values
from compiler.ir.graph import Graph
from compiler.ir.op import Op

# Multiply-adds that take as long as reading a byte of weights: GPUs of all sizes are near to it.
_FLOPS_PER_BYTE = 256
# No more values than this may pass between stages at one place.
_MOST_CROSSING = 3


@dataclass(frozen=True)
class Line:
    """The ops that stages are made of, in order. What only positions and masks need is free, and in every stage.

    Attributes:
        ops: those that depend on weights or caches, without the weights themselves.
        weights: for each op the bytes of the weights that it uses, by name.
        compute: for each op its arithmetic, as bytes that could be read meanwhile.
        crossing: for each op how many values that later ops use are made before it.
        reads: for each op the first op of the line that it reads from; itself if it reads from none.
    """

    ops: tuple[Op, ...]
    weights: tuple[Mapping[str, int], ...]
    compute: tuple[float, ...]
    crossing: tuple[int, ...]
    reads: tuple[int, ...]


def line_of(graph: Graph) -> Line:
    """The ops of a graph that stages are made of, with what each costs."""
    constant = constant_values(graph)
    free = {value.name for value in graph.inputs if value.name not in graph.outputs}
    ops: list[Op] = []
    for op in graph.ops:
        if op.kind.name not in ("const", "random") and all(value.name in free for value in op.operands):
            free.update(value.name for value in op.results)
        elif op.name not in constant:
            ops.append(op)
    sizes = {name: range_.opt for name, range_ in graph.dims.items()}
    weights = tuple([_weights(op, constant - free) for op in ops])
    compute = tuple([_flops(op, sizes) / _FLOPS_PER_BYTE for op in ops])
    return Line(tuple(ops), weights, compute, _crossing(ops), _reads(ops))


def _weights(op: Op, stored: Set[str]) -> dict[str, int]:
    return {value.name: value.type.nbytes for value in op.operands if value.name in stored}


def _flops(op: Op, sizes: Mapping[str, int]) -> int:
    """How many multiplications and additions the op takes, at the `opt` size of each symbolic dim."""
    made = sum(prod(value.type.sizes(sizes)) for value in op.results)
    operands = [value.type.sizes(sizes) for value in op.operands]
    if op.kind.name in ("linear", "matmul"):
        return 2 * made * operands[0][-1]
    if op.kind.name == "attention":
        (batch, heads, length, width), keys, values = operands[:3]
        return 2 * batch * heads * length * keys[2] * (width + values[3])
    return made


def _crossing(ops: Sequence[Op]) -> tuple[int, ...]:
    made = {value.name: i for i, op in enumerate(ops) for value in op.results}
    last = {value.name: i for i, op in enumerate(ops) for value in op.operands if value.name in made}
    change = Counter[int]()
    for name, i in last.items():
        change[made[name] + 1] += 1
        change[i + 1] -= 1
    return tuple(accumulate(change[i] for i in range(len(ops))))


def _reads(ops: Sequence[Op]) -> tuple[int, ...]:
    made = {value.name: i for i, op in enumerate(ops) for value in op.results}
    return tuple([min([made.get(value.name, i) for value in op.operands], default=i) for i, op in enumerate(ops)])


def cut_line(line: Line, stages: int) -> list[int]:
    """Where each stage after the first begins, such that the costliest stage costs as little as possible.

    A stage costs the bytes of the weights that it stores (a tied table once in each stage that uses it) and its
    arithmetic. Cuts are made where the fewest values pass. Every stage after the first has an op that reads what an
    earlier one made: what reads nothing of the kind, such as a lookup of positions, would be computed there.

    Raises:
        PassError: if there are not that many places to cut; it says how many stages are possible.
    """
    bounds, ends = _places(line, stages)
    cost = _Costs(line, bounds)
    count = len(bounds) - 1
    best: list[tuple[float, float]] = [(inf, inf)] * (count + 1)
    best[0] = (0.0, 0.0)
    previous: list[list[int]] = []
    for _ in range(stages):
        following, sharding = [(inf, inf)] * (count + 1), [0] * (count + 1)
        for end in range(1, count + 1):
            for start in range(end):
                if best[start][0] == inf or end < ends[start]:
                    continue
                own = cost(start, end)
                candidate = max(best[start][0], own), best[start][1] + own * own
                if candidate < following[end]:
                    following[end], sharding[end] = candidate, start
        best = following
        previous.append(sharding)
    cuts, end = [], count
    for sharding in reversed(previous):
        end = sharding[end]
        cuts.append(bounds[end])
    return cuts[-2::-1]


def _places(line: Line, stages: int) -> tuple[list[int], list[int]]:
    """The bounds of the blocks that stages are made of; and for a stage from each bound the first where it may end."""
    most = 1
    for crossing in range(1, _MOST_CROSSING + 1):
        places = [i for i in range(1, len(line.ops)) if line.crossing[i] <= crossing]
        bounds = [0, *places, len(line.ops)]
        ends = _first_ends(line, bounds)
        most = _most_stages(ends)
        if most >= stages:
            return bounds, ends
    raise PassError(
        f"pp={stages} needs {stages - 1} places to cut the graph, and there are {most - 1} where no more than "
        f"{_MOST_CROSSING} values pass and each stage has something to compute",
        hint=f"pp={most} is the most that this model can be cut into",
    )


def _first_ends(line: Line, bounds: Sequence[int]) -> list[int]:
    """For a stage that begins at each of the bounds, the first bound at which it may end: as numbers of bounds.

    One beyond the last bound if no stage can begin there.
    """
    every = len(line.ops)
    readers = [next((i for i in range(start, every) if line.reads[i] < start), every) for start in bounds[1:-1]]
    return [bisect_right(bounds, first) for first in (0, *readers)]


def _most_stages(ends: Sequence[int]) -> int:
    """The most stages that the blocks can be put into, in order."""
    last = len(ends)
    most = [0] * last + [0, -1]
    for start in reversed(range(last)):
        following = max((most[end] for end in range(ends[start], last + 1)), default=-1)
        most[start] = following + 1 if following >= 0 else -1
    return most[0]


class _Costs:
    """The cost of the ops between two of the bounds, given by their places among the bounds."""

    def __init__(self, line: Line, bounds: Sequence[int]) -> None:
        blocks = [range(start, end) for start, end in pairwise(bounds)]
        weights = [{name: size for i in block for name, size in line.weights[i].items()} for block in blocks]
        totals = [
            sum(own.values()) + sum(line.compute[i] for i in block) for own, block in zip(weights, blocks, strict=True)
        ]
        self.before = [0.0, *accumulate(totals)]
        uses = Counter(name for own in weights for name in own)
        self.shared = [
            (next(own[name] for own in weights if name in own), [i for i, own in enumerate(weights) if name in own])
            for name, count in uses.items()
            if count > 1
        ]

    def __call__(self, start: int, end: int) -> float:
        total = self.before[end] - self.before[start]
        for size, blocks in self.shared:
            inside = sum(start <= i < end for i in blocks)
            total -= size * max(inside - 1, 0)
        return total
