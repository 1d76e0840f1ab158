"""How many bytes of weights the ranks of a mesh store, and which of them several store alike."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.ir.constants import needed_constants
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of, rank_graph
from compiler.ir.op import Value
from compiler.ir.sinking import sink_slices


@dataclass(frozen=True)
class WeightReport:
    """The weights of a graph over the ranks of its mesh.

    Attributes:
        ranks: the bytes that each rank stores.
        once: the bytes of every shard, each counted once.
        repeated: by the name of a value, the bytes that ranks store beyond that, because they have the same shard.
    """

    ranks: tuple[int, ...]
    once: int
    repeated: dict[str, int]

    @property
    def total(self) -> int:
        """The bytes of all ranks; always `once` and what is `repeated`."""
        return sum(self.ranks)


def weight_report(graph: Graph) -> WeightReport:
    """Count the bytes of the constants that each rank's graph needs. No weight is read.

    What was joined, such as the weights of a merged linear, is counted part by part.

    Raises:
        GraphError: if the graph cannot be cut into its ranks.
    """
    graph = sink_slices(graph)
    mesh = mesh_of(graph)
    stored: list[int] = []
    shards: dict[Value, list[tuple[int, ...]]] = {}
    for stage in range(mesh.pp):
        values = needed_constants(rank_graph(graph, mesh.rank(stage, 0)))  # the ranks of a stage differ in nothing else
        stored += [sum(value.type.nbytes for value in values)] * mesh.tp
        for part in [part for value in values for part in _parts(graph, graph.value(value.name))]:
            cuts = _cuts(graph, part)
            held = [tuple([rank // each % parts for parts, each in cuts]) for rank in range(mesh.tp)]
            shards.setdefault(part, []).extend(held)
    repeated = {part.name: part.type.nbytes * (len(held) - len(set(held))) for part, held in shards.items()}
    return WeightReport(
        tuple(stored),
        sum(part.type.nbytes * len(set(held)) for part, held in shards.items()),
        {name: size for name, size in repeated.items() if size},
    )


def _parts(graph: Graph, value: Value) -> list[Value]:
    """What a value was joined from; the value itself if it was not."""
    op = graph.producers.get(value.name)
    if op is None or op.kind.name != "concat":
        return [value]
    return [part for operand in op.operands for part in _parts(graph, operand)]


def _cuts(graph: Graph, value: Value) -> list[tuple[int, int]]:
    """`parts` and `each` of the shards that a constant is made by."""
    found: list[tuple[int, int]] = []
    stack, seen = [value.name], {value.name}
    while stack:
        op = graph.producers.get(stack.pop())
        if op is None:
            continue
        if op.kind.name == "shard":
            found.append((op.attrs["parts"], op.attrs["each"]))
        operands = [operand.name for operand in op.operands if operand.name not in seen]
        seen.update(operands)
        stack += operands
    return found
