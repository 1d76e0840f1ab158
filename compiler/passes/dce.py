"""Dead-code elimination."""

from __future__ import annotations

from compiler.ir.graph import Graph
from compiler.ir.rewrite import eliminate_dead
from compiler.passes.registry import register


@register("dce")
def dce(graph: Graph) -> Graph:
    """Remove ops whose results nothing needs. Inputs stay."""
    return eliminate_dead(graph)
