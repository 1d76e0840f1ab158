"""Graphs as networkx digraphs, for analysis and pictures."""

from __future__ import annotations

import networkx

from compiler.ir.graph import Graph


def to_networkx(graph: Graph) -> networkx.DiGraph[str]:
    """The dataflow of a valid graph: nodes are inputs, ops and outputs, an edge is the values from one to another.

    An input's node has its name, an op's the name of its first result, an output's is `output:ROLE`. Attributes are
    strings, so that every file format of networkx takes them.

    - Nodes: `kind` (`input`, `output` or the op's kind), `type` (of every result, separated by commas), `scope`,
      `module` (where in the checkpoint the op comes from; empty for inputs and outputs).
    - Edges: `value` and `type` (of every value that goes this way, separated by commas).
    """
    digraph: networkx.DiGraph[str] = networkx.DiGraph(name=graph.name)
    producer: dict[str, str] = {}
    for value in graph.inputs:
        producer[value.name] = value.name
        digraph.add_node(value.name, kind="input", type=str(value.type), scope=value.name.rpartition(".")[0], module="")
    for op in graph.ops:
        types = ", ".join(str(value.type) for value in op.results)
        digraph.add_node(op.name, kind=op.kind.name, type=types, scope=op.scope, module=op.origin.module)
        producer |= dict.fromkeys((value.name for value in op.results), op.name)
        flows: dict[str, dict[str, str]] = {}  # from producer: value name → type, each once
        for value in op.operands:
            flows.setdefault(producer[value.name], {})[value.name] = str(value.type)
        for source, values in flows.items():
            digraph.add_edge(source, op.name, value=", ".join(values), type=", ".join(values.values()))
    for role, value in graph.outputs.items():
        digraph.add_node(f"output:{role}", kind="output", type=str(value.type), scope="", module="")
        digraph.add_edge(producer[value.name], f"output:{role}", value=value.name, type=str(value.type))
    return digraph
