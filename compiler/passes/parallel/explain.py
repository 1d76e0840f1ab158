"""Notes that passes which split a model give on the graph as a whole."""

from __future__ import annotations

from compiler.ir.graph import Graph
from compiler.ir.mesh import collectives
from compiler.ir.trace import current_trace


def note_collectives(pass_name: str, graph: Graph) -> None:
    """Say how many collectives a step takes."""
    trace = current_trace()
    if trace:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(collectives(graph).items()))
        trace.note(pass_name, f"a step takes {counts or 'no collectives'}")
