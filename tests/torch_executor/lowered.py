"""Graphs as the torch executor runs them on a CPU."""

import torch

from compiler.ir.graph import Graph
from runtime.parallel.communicator import Communicator
from runtime.torch_executor.executor import constant_loader
from runtime.torch_executor.linear import pack_linear
from runtime.torch_executor.lowering import Program, lower


def lowered(graph: Graph, *, widened: bool = True, group: Communicator | None = None) -> Program:
    """The program of a graph for two rows; with `widened`, 16-bit values are held as float32."""
    return lower(
        graph,
        torch.device("cpu"),
        constant_loader(graph),
        lambda weight, bias: pack_linear(weight, bias, 2),
        widened=widened,
        group=group,
    )
