"""What a page shows, as JSON: graphs whose equal ops are written once, their groups, their differences."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compiler.ir.analysis import constant_values
from compiler.ir.diff import GraphDiff, diff_graphs
from compiler.ir.drawing.colours import DTYPE_COLOURS, MARK_SIGNS
from compiler.ir.drawing.outline import Outline, outline
from compiler.ir.drawing.work import Work, usual_sizes, work_of
from compiler.ir.graph import Graph
from compiler.ir.literals import attr_text, ref_text
from compiler.ir.op import Attr, Op
from compiler.ir.tensor_ref import TensorRef

# A literal may have a million values; a page shows enough to know it by.
_ATTRIBUTE_WIDTH = 200


@dataclass(frozen=True)
class Shown:
    """A graph and what a page calls it, such as the name of a dump."""

    label: str
    graph: Graph


@dataclass
class _Tables:
    """What graphs share, each row once."""

    rows: dict[str, int] = field(default_factory=dict)
    content: list[Any] = field(default_factory=list)

    def index(self, row: Any) -> int:
        key = json.dumps(row)
        if key not in self.rows:
            self.rows[key] = len(self.content)
            self.content.append(row)
        return self.rows[key]


def page_data(
    shown: Sequence[Shown], *, title: str, compare: bool = False, errors: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """What a page shows.

    Args:
        shown: the graphs in order, each made from the one before.
        title: what the page is called.
        compare: whether the first two are shown side by side at first.
        errors: of each quantized op the entry of `OpError.to_json`.

    Returns:
        A JSON object with `title`, `compare` and `errors`, and:

        - `ops`: rows of name, kind, operands, results with types, attributes, module and passes;
        - `paths`: lists of groups, the outermost first;
        - `graphs`: of each its ops and their groups as indices into those, its inputs and outputs, and what ops cost;
        - `diffs`: what changed from each graph to the next;
        - `kinds`: the first sentence about each kind of op;
        - `dtypeColours` and `markSigns`.
    """
    values = {name for each in shown for name in each.graph.values}
    ops, paths = _Tables(), _Tables()
    graphs = [_graph_entry(each, outline(each.graph, values), ops, paths) for each in shown]
    kinds = {op.kind.name: op.kind for each in shown for op in each.graph.ops}
    bare = [replace(each.graph, root=".") for each in shown]
    return {
        "title": title,
        "compare": compare and len(shown) > 1,
        "ops": ops.content,
        "paths": paths.content,
        "kinds": {name: kind.doc.split("\n\n")[0].replace("\n", " ") for name, kind in sorted(kinds.items())},
        "graphs": graphs,
        "diffs": [_diff_entry(diff_graphs(a, b)) for a, b in itertools.pairwise(bare)],
        "dtypeColours": dict(DTYPE_COLOURS),
        "markSigns": dict(MARK_SIGNS),
        "errors": [dict(entry) for entry in errors],
    }


def _graph_entry(shown: Shown, groups: Outline, ops: _Tables, paths: _Tables) -> dict[str, Any]:
    graph, constant = shown.graph, constant_values(shown.graph)
    symbols = {name for value in graph.values.values() for name in value.type.symbols}
    return {
        "label": shown.label,
        "name": graph.name,
        "facts": {name: attr_text(value) for name, value in graph.facts.items()},
        "dims": {name: list(sizes) for name, sizes in graph.dims.items()},
        "sizes": {name: size for name, size in usual_sizes(graph).items() if name in symbols},
        "inputs": [[value.name, str(value.type)] for value in graph.inputs],
        "outputs": [[role, value.name] for role, value in graph.outputs.items()],
        "ops": [ops.index(_op_row(op)) for op in graph.ops],
        "groups": [paths.index(path) for path in groups.paths],
        "alike": dict(groups.alike),
        "constant": [i for i, op in enumerate(graph.ops) if all(v.name in constant for v in op.results)],
        "work": {str(i): list(work) for i, work in enumerate(work_of(graph)) if work != Work()},
    }


def _op_row(op: Op) -> list[Any]:
    return [
        op.name,
        op.kind.name,
        [value.name for value in op.operands],
        [[value.name, str(value.type)] for value in op.results],
        attribute_texts(op),
        op.origin.module,
        list(op.origin.passes),
    ]


def attribute_texts(op: Op) -> dict[str, str]:
    """The attributes of an op as text, long ones cut."""
    texts = {name: _attribute(value) for name, value in op.attrs.items()}
    return {
        name: text if len(text) <= _ATTRIBUTE_WIDTH else text[: _ATTRIBUTE_WIDTH - 1] + "…"
        for name, text in texts.items()
    }


def _attribute(value: Attr) -> str:
    return ref_text(value, str(value.type)) if isinstance(value, TensorRef) else attr_text(value)


def _diff_entry(diff: GraphDiff) -> dict[str, Any]:
    return {
        "head": [list(lines) for lines in diff.head],
        "added": [op.name for op in diff.added],
        "removed": [op.name for op in diff.removed],
        "changed": [[c.before.name, c.after.name, list(c.what)] for c in diff.changed],
        "renamed": [[c.before.name, c.after.name] for c in diff.renamed],
        "moved": [op.name for op in diff.moved],
    }
