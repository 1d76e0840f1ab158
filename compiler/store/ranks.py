"""Writing the ranks of a graph: their graphs, and the weights that these read."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from compiler.ir.constants import needed_constants, stream_constants
from compiler.ir.files import write_graph
from compiler.ir.graph import Graph
from compiler.ir.mesh import mesh_of, rank_graph
from compiler.ir.op import Op, Value, make_op, op_kind
from compiler.ir.rewrite import eliminate_dead
from compiler.ir.sinking import sink_slices
from compiler.ir.tensor_ref import TensorRef
from compiler.progress import Report
from compiler.store.joined import joined_constants
from compiler.store.safetensors_writer import SafetensorsWriter


@dataclass(frozen=True)
class StoredRank:
    """The files of one rank, relative to the engine directory, and the graph they hold."""

    rank: int
    graph_file: str
    weights_file: str
    graph: Graph


def write_ranks(graph: Graph, folder: Path, *, progress: Report | None = None) -> tuple[StoredRank, ...]:
    """Write the graph and the weights of every rank into `folder`.

    Every constant that a rank needs at run time is computed, one at a time, and stored; the graphs that are written
    point at the stored tensors. What ranks have in common is read and computed once for all of them.

    Args:
        graph: the graph after all passes.
        folder: the engine directory under construction.
        progress: called with the weight bytes written so far and in total.

    Raises:
        CheckpointError: if the checkpoint's files cannot be read.
        OSError: if the folder cannot be written.
    """
    ranks = [sink_slices(rank_graph(graph, rank)) for rank in range(mesh_of(graph).size)]
    wanted = [needed_constants(own) for own in ranks]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                SafetensorsWriter(folder / _weights(rank), {value.name: value.type for value in values})
            )
            for rank, values in enumerate(wanted)
        ]
        total, done = sum(writer.total for writer in writers), 0
        joined = joined_constants(ranks, wanted)
        for value, tensor in stream_constants(joined.graph):
            for rank, name in joined.uses[value.name]:
                writers[rank].write(name, tensor)
                done += value.type.nbytes
                if progress:
                    progress(done, total)
    emitted = []
    for rank, (own, values, writer) in enumerate(zip(ranks, wanted, writers, strict=True)):
        stored = _with_stored(own, values, _weights(rank), writer.places)
        write_graph(stored, folder / f"rank{rank}.ir")
        emitted.append(StoredRank(rank, f"rank{rank}.ir", _weights(rank), stored))
    return tuple(emitted)


def stored_ranks(graph: Graph, ranks: Iterable[int] | None = None) -> tuple[Graph, ...]:
    """The graphs that `write_ranks` would write, over weights that are not there: nothing is read or written.

    Args:
        graph: the graph after all passes.
        ranks: which ranks; all if None.

    Raises:
        GraphError: if the graph cannot be cut into its ranks.
    """
    graphs = []
    for rank in range(mesh_of(graph).size) if ranks is None else ranks:
        own = sink_slices(rank_graph(graph, rank))
        values = needed_constants(own)
        graphs.append(_with_stored(own, values, _weights(rank), {value.name: 0 for value in values}))
    return tuple(graphs)


def _weights(rank: int) -> str:
    return f"rank{rank}.safetensors"


def _with_stored(graph: Graph, values: list[Value], file: str, places: dict[str, int]) -> Graph:
    """The graph in which each of `values` is a `const` that points into `file`; what computed them is gone."""
    wanted = {value.name for value in values}
    ops: list[Op] = []
    for op in graph.ops:
        stored = [value for value in op.results if value.name in wanted]
        if not stored:
            ops.append(op)
        for value in stored:
            ref = TensorRef(value.type, value.name, file, places[value.name])
            ops.append(make_op(op_kind("const"), (), {"data": ref}, (value.name,), op.origin))
    return replace(eliminate_dead(graph.with_ops(tuple(ops), graph.outputs)), root=".")
