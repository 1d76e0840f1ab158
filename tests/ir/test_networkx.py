"""The bridge to networkx."""

import io

import networkx
import pytest
from hypothesis import given

from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from tests.strategies import graphs


@pytest.fixture
def graph() -> Graph:
    b = Builder("g")
    x = b.input("cache", DType.f16, 8)
    with b.scope("h.0", "layers.0"):
        left, right = b.split(x, axis=0, sizes=(4, 4), names=("left", "right"))
        y = b.concat(right, left, right, axis=0, name="y")
    b.output("hidden", y)
    b.output("cache", x)
    return b.build()


def test_nodes(graph: Graph):
    assert dict(graph.to_networkx().nodes) == {
        "cache": {"kind": "input", "type": "f16[8]", "scope": "", "module": ""},
        "h.0.left": {"kind": "split", "type": "f16[4], f16[4]", "scope": "h.0", "module": "layers.0"},
        "h.0.y": {"kind": "concat", "type": "f16[12]", "scope": "h.0", "module": "layers.0"},
        "output:hidden": {"kind": "output", "type": "f16[12]", "scope": "", "module": ""},
        "output:cache": {"kind": "output", "type": "f16[8]", "scope": "", "module": ""},
    }


def test_edges_carry_each_value_once(graph: Graph):
    assert list(graph.to_networkx().edges(data=True)) == [
        ("cache", "h.0.left", {"value": "cache", "type": "f16[8]"}),
        ("cache", "output:cache", {"value": "cache", "type": "f16[8]"}),
        ("h.0.left", "h.0.y", {"value": "h.0.right, h.0.left", "type": "f16[4], f16[4]"}),
        ("h.0.y", "output:hidden", {"value": "h.0.y", "type": "f16[12]"}),
    ]


def test_files_take_every_attribute(graph: Graph):
    buffer = io.BytesIO()
    networkx.write_graphml(graph.to_networkx(), buffer)
    buffer.seek(0)
    assert dict(networkx.read_graphml(buffer).nodes) == dict(graph.to_networkx().nodes)


@given(graphs())
def test_dataflow_is_acyclic_and_in_the_order_of_the_ops(graph):
    digraph = graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(digraph)
    assert len(digraph) == len(graph.inputs) + len(graph.ops) + len(graph.outputs)
    for op in graph.ops:
        users = {user.name for value in op.results for user in graph.users.get(value.name, ())}
        assert {node for node in digraph.successors(op.name) if not node.startswith("output:")} == users
