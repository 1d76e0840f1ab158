"""Meshes of ranks, and what one rank runs.

A graph for a mesh of `tp x pp` ranks says so in its facts `tp` and `pp`. Rank `stage * tp + i` is rank `i` of a stage.
A rank's own graph has its shards in place of `shard` ops, the ops of its stage only, and names what crosses stages:

- the input `recv.S.NAME` is the value `NAME`, received from stage `S`;
- the output `send.S.NAME` is the value `NAME`, to be sent to stage `S`.

Peers have the same place in their stages. Both sides list what passes between them in the same order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from compiler.errors import GraphError
from compiler.ir.collectives import COLLECTIVES
from compiler.ir.graph import Fact, Graph
from compiler.ir.mesh_stages import RECEIVE, SEND, peer_stage, stage_graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep


@dataclass(frozen=True)
class Mesh:
    """How many ranks run a graph: `tp` in each of `pp` stages."""

    tp: int = 1
    pp: int = 1

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self.tp * self.pp

    def place(self, rank: int) -> tuple[int, int]:
        """The stage of a rank, and its place among the ranks of the stage; GraphError if there is no such rank."""
        if not 0 <= rank < self.size:
            raise GraphError(f"there is no rank {rank} among the {self.size} of tp={self.tp}, pp={self.pp}")
        return divmod(rank, self.tp)

    def rank(self, stage: int, place: int) -> int:
        """Inverse of `place`."""
        return stage * self.tp + place

    def __str__(self) -> str:
        return f"tp={self.tp}, pp={self.pp}"


class Link(NamedTuple):
    """A value that passes between two stages.

    Attributes:
        name: the input of the receiver, or the role of the sender's output.
        stage: the stage of the peer.
        value: the value in this rank's graph.
    """

    name: str
    stage: int
    value: Value


def mesh_of(graph: Graph) -> Mesh:
    """The mesh that a graph, or the graph of one of its ranks, is for."""
    return Mesh(_count(graph, "tp"), _count(graph, "pp"))


def _count(graph: Graph, axis: str) -> int:
    count = graph.facts.get(axis, 1)
    if not isinstance(count, int) or count < 1:
        raise GraphError(f"the fact {axis!r} is {count!r}; it must be a number of ranks")
    return count


def with_facts(graph: Graph, **facts: Fact) -> Graph:
    """The graph with these facts added or changed."""
    return graph.with_facts(**facts)


def rank_graph(graph: Graph, rank: int) -> Graph:
    """What one rank runs: its shards of the constants, the ops of its stage, collectives as they are.

    The result says in the fact `rank` whose it is. Inputs that its stage does not use are gone; caches are those of its
    stage. The graph of a mesh of one rank is its rank's graph.

    Raises:
        GraphError: if there is no such rank, the graph is one rank's already, its collectives are for another number
            of ranks, or a stage uses what another one computes without a `transfer`.
    """
    mesh = mesh_of(graph)
    stage, place = mesh.place(rank)
    if mesh.size == 1:
        return graph
    if "rank" in graph.facts:
        raise GraphError(f"the graph is that of rank {graph.facts['rank']} already")
    for op in graph.ops:
        _check(op, mesh)
    own = stage_graph(graph, stage) if mesh.pp > 1 else graph
    return with_facts(_bound(own, place), rank=rank)


def check_stages(graph: Graph) -> None:
    """See that the graph of all ranks can be cut into its stages; the graph of one rank is as it is.

    Raises:
        GraphError: naming the stage that has nothing to compute, or the op that uses what another stage computes.
    """
    mesh = mesh_of(graph)
    if mesh.pp > 1 and "rank" not in graph.facts:
        for stage in range(mesh.pp):
            stage_graph(graph, stage)


def received(graph: Graph) -> tuple[Link, ...]:
    """What a rank's graph is given by other stages, in order."""
    return tuple(
        Link(value.name, peer_stage(value.name), value) for value in graph.inputs if value.name.startswith(RECEIVE)
    )


def sent(graph: Graph) -> tuple[Link, ...]:
    """What a rank's graph gives to other stages, in order."""
    return tuple(Link(role, peer_stage(role), value) for role, value in graph.outputs.items() if role.startswith(SEND))


def collectives(graph: Graph) -> Counter[str]:
    """How many collectives of each kind a step takes, and `transfer`s between stages."""
    return Counter(op.kind.name for op in graph.ops if op.kind.name in COLLECTIVES or op.kind.name == "transfer")


def _check(op: Op, mesh: Mesh) -> None:
    if op.kind.name in COLLECTIVES and op.attrs["parts"] != mesh.tp:
        problem = f"is for {op.attrs['parts']} ranks"
    elif op.kind.name == "shard" and mesh.tp % (op.attrs["parts"] * op.attrs["each"]):
        problem = f"makes {op.attrs['parts']} shards for {op.attrs['each']} ranks each"
    elif op.kind.name == "transfer" and op.attrs["stage"] >= mesh.pp:
        problem = f"goes to stage {op.attrs['stage']}"
    else:
        return
    raise GraphError(f"{op.kind.name} %{op.name} from {op.origin} {problem}, in a graph for {mesh}")


def _bound(graph: Graph, place: int) -> Graph:
    """The graph with the shards of one rank."""

    def visit(op: Op, b: RewriteBuilder) -> Value | None:
        if op.kind.name != "shard":
            return None
        x, axis = op.operands[0], op.attrs["axis"] % op.operands[0].type.rank
        size = op.result.type.shape[axis]
        shard = place // op.attrs["each"] % op.attrs["parts"]
        source = b.producer(x)
        if source is not None and source.kind.name == "literal":
            shape = tuple(dim for dim in x.type.shape if isinstance(dim, int))
            values = _shard(source.attrs["values"], shape, axis, op.attrs["parts"], shard)
            return b.literal(dtype=x.type.dtype, shape=op.result.type.shape, values=values)
        return b.slice(x, axis=axis, start=shard * size, size=size)

    return sweep(graph, visit, pass_name="")


def _shard(values: tuple[float, ...], shape: tuple[int, ...], axis: int, parts: int, shard: int) -> tuple[float, ...]:
    """The values of one of the equal shards of a literal."""
    if len(values) == 1:
        return values
    inner = 1
    for dim in shape[axis + 1 :]:
        inner *= dim
    run = shape[axis] * inner
    width = run // parts
    return tuple([v for i in range(0, len(values), run) for v in values[i + shard * width : i + (shard + 1) * width]])
