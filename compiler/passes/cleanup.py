"""All cleaning at once."""

from __future__ import annotations

from compiler.ir.graph import Graph
from compiler.passes.cse import cse
from compiler.passes.dce import dce
from compiler.passes.fold import fold
from compiler.passes.registry import register


@register("cleanup")
def cleanup(graph: Graph) -> Graph:
    """Fold, merge equal ops and remove dead ones, until there is nothing left to do (`fold`, `cse` and `dce`)."""
    while True:
        cleaned = cse(fold(dce(graph)))
        if cleaned is graph:
            return graph
        graph = cleaned
