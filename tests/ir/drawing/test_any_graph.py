"""Every valid graph can be drawn, whatever its names."""

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given

import llmc
from compiler.ir.analysis import constant_values
from compiler.ir.drawing.model_explorer import model_explorer_json
from compiler.ir.drawing.page import page
from compiler.ir.drawing.page_data import Shown, page_data
from compiler.ir.drawing.scene import boxes_of, scene
from compiler.ir.drawing.svg import svg
from compiler.ir.graph import Graph
from tests.strategies import graphs


@given(graphs())
def test_every_graph_has_pictures(graph: Graph):
    for opened in (None, [], ["all"]):
        ElementTree.fromstring(svg(graph, opened=opened))
    ElementTree.fromstring(graph._repr_html_())


@given(graphs())
def test_every_op_has_a_box_in_a_picture_with_all_groups_open(graph: Graph):
    boxes = [box.name for box in boxes_of(scene(graph, opened=["all"]).root) if not box.is_open]
    constant, states = constant_values(graph), graph.states()
    ops = [op.name for op in graph.ops if any(value.name not in constant for value in op.results)]
    inputs = [value.name for value in graph.inputs if value.name not in states]
    outputs = [f"output:{role}" for role in graph.outputs if role not in states]
    assert sorted(boxes) == sorted([*ops, *inputs, *outputs])


@given(graphs())
def test_every_graph_has_data(graph: Graph):
    data = json.loads(json.dumps(page_data([Shown("a", graph), Shown("b", graph)], title="t")))
    assert data["diffs"] == [{"head": [], "added": [], "removed": [], "changed": [], "renamed": [], "moved": []}]
    (collected,) = json.loads(model_explorer_json([Shown("a", graph)], title="t"))["graphs"]
    assert len(collected["nodes"]) == len(graph.inputs) + len(graph.ops) + len(graph.outputs)


@pytest.mark.parametrize("name", ['a "b"', "<b>&", "ü.ß", "a..b", ".a", "a.", "1", "a\\nb", "\\u0001"])
def test_any_name_can_be_drawn(name):
    quoted = '"' + name.replace('"', '\\"') + '"'
    graph = llmc.parse(
        f"graph {quoted}\ninput x: f32[4]\n.:\n  %{quoted}: f32[4] = relu(%x)\noutput {quoted} = %{quoted}\n"
    )
    ElementTree.fromstring(svg(graph, label=name))
    ElementTree.fromstring(graph._repr_html_())
    assert "</html>" in page([Shown(name, graph)], title=name)
    json.loads(model_explorer_json([Shown(name, graph)], title=name))
