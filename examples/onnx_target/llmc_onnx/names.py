"""What the inputs and outputs of a model are called."""

from __future__ import annotations

from compiler.ir.graph import Graph

NEXT = "next."
"""What the names of the next states of caches begin with: in ONNX an output cannot be called as an input is."""


def next_state(role: str, graph: Graph) -> str:
    """What an output of a graph is called in its model."""
    return NEXT + role if role in graph.states() else role
