"""Every valid graph can be drawn, whatever its names."""

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given

import llmc
from compiler.ir.drawing.model_explorer import model_explorer_json
from compiler.ir.drawing.page import page
from compiler.ir.drawing.page_data import Shown, page_data
from compiler.ir.drawing.svg import svg
from compiler.ir.graph import Graph
from tests.strategies import graphs


@given(graphs())
def test_every_graph_has_pictures(graph: Graph):
    for opened in (None, [], ["all"]):
        ElementTree.fromstring(svg(graph, opened=opened))
    ElementTree.fromstring(graph._repr_html_())


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
