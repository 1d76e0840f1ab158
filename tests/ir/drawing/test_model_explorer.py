"""The JSON form of Model Explorer."""

import json

from compiler.ir.drawing.model_explorer import model_explorer_json


def test_a_collection_has_a_graph_for_each_dump(dumps):
    collection = json.loads(model_explorer_json(dumps, title="dumps"))
    assert collection["label"] == "dumps"
    assert [graph["id"] for graph in collection["graphs"]] == [shown.label for shown in dumps]


def test_edges_lead_to_outputs_of_nodes(dumps):
    for graph in json.loads(model_explorer_json(dumps, title="dumps"))["graphs"]:
        outputs = {node["id"]: {each["id"] for each in node["outputsMetadata"]} for node in graph["nodes"]}
        assert len(outputs) == len(graph["nodes"])
        edges = [edge for node in graph["nodes"] for edge in node["incomingEdges"]]
        assert edges
        assert all(edge["sourceNodeOutputId"] in outputs[edge["sourceNodeId"]] for edge in edges)


def test_a_node_says_what_its_op_is(dumps):
    (graph, *_) = json.loads(model_explorer_json(dumps, title="dumps"))["graphs"]
    node = next(node for node in graph["nodes"] if node["id"] == "layers.2.attn.out")
    assert (node["label"], node["namespace"]) == ("linear", "layers.1..3/layers.2/layers.2.attn")
    assert {"key": "module", "value": "gpt_neox.layers.2.attention"} in node["attrs"]
    assert {"key": "tensor_shape", "value": "f16[B,S,128]"} in node["outputsMetadata"][0]["attrs"]
    split = next(node for node in graph["nodes"] if node["label"] == "split")
    assert [each["id"] for each in split["outputsMetadata"]] == ["0", "1", "2"]
