"""What notebooks show of a graph."""

from __future__ import annotations

from collections import Counter

from compiler.ir.analysis import constant_values
from compiler.ir.drawing.svg import svg, xml_text
from compiler.ir.graph import Graph

# More boxes than this are slower to look at than a table is to read.
_MOST_OPS_OPENED = 80


def notebook_html(graph: Graph) -> str:
    """A summary and a picture, without scripts, style sheets or ids, so that any number of them fit into one page.

    A graph of few ops is shown whole; of others the groups, closed.
    """
    constant = constant_values(graph)
    running = [op for op in graph.ops if any(value.name not in constant for value in op.results)]
    kinds = Counter(op.kind.name for op in running).most_common()
    ops = ", ".join(f"{xml_text(kind)} {count}" for kind, count in kinds)
    opened = ["all"] if len(running) <= _MOST_OPS_OPENED else []
    picture = svg(graph, opened=opened, dark=False).replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1)
    head = f"<b>{xml_text(graph.name)}</b>: {len(running)} ops, {len(graph.ops) - len(running)} more on weights"
    return f'<div><div>{head}</div><div style="font-size:smaller">{ops}</div>{picture}</div>'
