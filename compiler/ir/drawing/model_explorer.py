"""Graphs in the JSON form of Model Explorer, a viewer of large graphs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from compiler.ir.drawing.outline import outline
from compiler.ir.drawing.page_data import Shown, attribute_texts
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value

_CACHES, _NEXT_CACHES = "caches", "next caches"


def model_explorer_json(shown: Sequence[Shown], *, title: str) -> str:
    """Graphs as one collection: nodes are inputs, ops and outputs, their namespaces the groups of names.

    Attributes of a node are those of its op, the module of the checkpoint that it comes from, and the passes that made
    or changed it.
    """
    graphs = [{"id": each.label, "nodes": list(_nodes(each.graph))} for each in shown]
    return json.dumps({"label": title, "graphs": graphs}, indent=1)


def _nodes(graph: Graph) -> Iterator[dict[str, Any]]:
    states = graph.states()
    sources: dict[str, tuple[str, int]] = {}
    for value in graph.inputs:
        sources[value.name] = (value.name, 0)
        yield _node(value.name, value.name, _CACHES if value.name in states else "", [], [value], {}, sources)
    for op, path in zip(graph.ops, outline(graph).paths, strict=True):
        yield _node(op.name, op.kind.name, "/".join(path), op.operands, op.results, _about(op), sources)
        sources |= {value.name: (op.name, i) for i, value in enumerate(op.results)}
    for role, value in graph.outputs.items():
        yield _node(f"output:{role}", role, _NEXT_CACHES if role in states else "", [value], [], {}, sources)


def _about(op: Op) -> dict[str, str]:
    about = {"name": op.name, **attribute_texts(op)}
    about |= {"module": op.origin.module} if op.origin.module else {}
    return about | ({"passes": ", ".join(op.origin.passes)} if op.origin.passes else {})


def _node(
    name: str,
    label: str,
    namespace: str,
    operands: Iterable[Value],
    results: Iterable[Value],
    about: dict[str, str],
    sources: dict[str, tuple[str, int]],
) -> dict[str, Any]:
    edges = [
        {"sourceNodeId": sources[v.name][0], "sourceNodeOutputId": str(sources[v.name][1]), "targetNodeInputId": str(i)}
        for i, v in enumerate(operands)
    ]
    outputs = [
        {"id": str(i), "attrs": _pairs({"tensor_name": v.name, "tensor_shape": str(v.type)})}
        for i, v in enumerate(results)
    ]
    return {
        "id": name,
        "label": label,
        "namespace": namespace,
        "attrs": _pairs(about),
        "incomingEdges": edges,
        "outputsMetadata": outputs,
    }


def _pairs(texts: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": text} for key, text in texts.items()]
