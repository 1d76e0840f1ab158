"""Graphs as the torch executor runs them on a CPU."""

import torch

import runtime.executors.torch.rules  # noqa: F401 - registers the rules
from compiler.ir.graph import Graph
from compiler.store.constant_loader import constant_loader
from runtime.collectives.communicator import Communicator
from runtime.executors.torch.linear import pack_linear
from runtime.executors.torch.lowering import Program, lower


def lowered(graph: Graph, *, upcast: bool = True, group: Communicator | None = None) -> Program:
    """The program of a graph for two rows; with `upcast`, 16-bit values are held as float32."""
    return lower(
        graph,
        torch.device("cpu"),
        constant_loader(graph),
        lambda weight, bias: pack_linear(weight, bias, 2),
        upcast=upcast,
        group=group,
    )
