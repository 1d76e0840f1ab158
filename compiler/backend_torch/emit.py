"""Emitting a rank for the torch executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from compiler.backend_torch.safetensors_writer import write_safetensors
from compiler.ir.constants import needed_constants, stream_constants
from compiler.ir.files import write_graph
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value, make_op, op_kind
from compiler.ir.rewrite import eliminate_dead
from compiler.ir.sinking import sink_pieces
from compiler.ir.tensor_ref import TensorRef


@dataclass(frozen=True)
class EmittedRank:
    """The files of one rank, relative to the engine directory, and the graph they hold."""

    rank: int
    graph_file: str
    weights_file: str
    graph: Graph


def emit_torch(
    graph: Graph, folder: Path, *, rank: int = 0, progress: Callable[[int, int], None] | None = None
) -> EmittedRank:
    """Write a rank's graph and weights into `folder`.

    Every constant that the graph needs at run time is computed, one at a time, and stored; the graph that is written
    points at the stored tensors.

    Args:
        graph: the graph after all passes.
        folder: the engine directory under construction.
        rank: the rank whose files these are.
        progress: called with the weight bytes written so far and in total.

    Raises:
        CheckpointError: if the checkpoint's files cannot be read.
        OSError: if the folder cannot be written.
    """
    graph_file, weights_file = f"rank{rank}.ir", f"rank{rank}.safetensors"
    graph = sink_pieces(graph)
    values = needed_constants(graph)
    places = write_safetensors(folder / weights_file, values, stream_constants(graph), progress)
    stored = _with_stored(graph, values, weights_file, places)
    write_graph(stored, folder / graph_file)
    return EmittedRank(rank, graph_file, weights_file, stored)


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
