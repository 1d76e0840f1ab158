"""Still pictures: what is in them, read as XML."""

from xml.etree import ElementTree

import pytest

import llmc
from compiler.errors import GraphError
from compiler.ir.diff import diff_graphs
from compiler.ir.drawing.scene import boxes_of, scene
from compiler.ir.drawing.svg import svg, svg_of_diff
from tests.paths import DOCS

TEXT = "{http://www.w3.org/2000/svg}text"


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(picture).iter(TEXT)]


def test_layers_that_are_alike_are_one_box_and_the_first_is_open(lifted):
    shown = texts(svg(lifted))
    assert "+ layers.1..3, like layers.0" in shown
    assert {"layers.0", "+ attn", "+ mlp", "embed.tokens", "token_ids", "logits"} <= set(shown)
    assert "embedding f16[B,S,128]" in shown


def test_groups_open_with_those_around_them(lifted):
    assert "scores" in texts(svg(lifted, opened=["layers.2.attn"]))
    assert {"layers.1..3, like layers.0", "layers.2, like layers.0", "+ layers.3, like layers.0"} <= set(
        texts(svg(lifted, opened=["layers.2.attn"]))
    )
    assert "+ layers.0" in texts(svg(lifted, opened=[]))
    assert not [text for text in texts(svg(lifted, opened=["all"])) if text.startswith("+ ")]


def test_a_group_that_is_not_there_is_named(lifted):
    with pytest.raises(GraphError, match=r"no group 'layer.0' to open; did you mean 'layers.0'\?"):
        svg(lifted, opened=["layer.0"])


def test_differences_are_marked(dumps):
    graphs = {shown.label.partition("-")[2]: shown.graph for shown in dumps}
    diff = diff_graphs(graphs["merge-linears"], graphs["fuse-attention"])
    shown = texts(svg_of_diff(diff, ("before", "after"), opened=["layers.0.attn"]))
    assert {"before", "after", "− removed", "−", "±", "±3", "−12"} <= set(shown)
    assert shown.count("scores") == 1
    assert shown.count("context") == 2


def test_boxes_stand_within_their_groups(lifted):
    for box in boxes_of(scene(lifted, opened=["all"]).root):
        assert box.parent is not None
        for at in (0, 1):
            begin, end = box.parent.corner[at], box.parent.corner[at] + box.parent.size[at]
            assert begin - 1e-6 <= box.corner[at] <= box.corner[at] + box.size[at] <= end + 1e-6


def test_arrows_join_boxes(lifted):
    drawn = scene(lifted, opened=["layers.0.attn"])
    boxes = [box for box in boxes_of(drawn.root) if not box.is_open]
    lower = {(round(b.corner[0] + b.size[0] / 2, 3), round(b.corner[1] + b.size[1], 3)) for b in boxes}
    upper = {(round(b.corner[0] + b.size[0] / 2, 3), round(b.corner[1], 3)) for b in boxes}
    assert drawn.arrows
    for points in drawn.arrows:
        assert (round(points[0][0], 3), round(points[0][1], 3)) in lower
        assert (round(points[-1][0], 3), round(points[-1][1], 3)) in upper


def test_a_graph_without_ops_has_a_picture():
    assert "x" in texts(svg(llmc.parse("graph g\ninput x: f32[4]\noutput y = %x\n")))


def test_a_notebook_shows_graphs_without_ids_or_style_sheets(lifted):
    shown = lifted._repr_html_()
    ElementTree.fromstring(shown)
    assert not {"<style", "<script", " id="} & {part for part in ("<style", "<script", " id=") if part in shown}
    assert "<b>gpt_neox</b>: 127 ops, 94 more on weights" in shown
    assert "+ layers.0" in shown


def test_a_notebook_shows_small_graphs_whole():
    graph = llmc.parse(
        "graph g\ninput x: f32[4]\na.b:\n  %.y: f32[4] = relu(%x)\n  %.z: f32[4] = relu(%.y)\noutput o = %a.b.z\n"
    )
    assert "relu f32[4]" in graph._repr_html_()


def test_the_picture_in_the_guide_is_current(lifted):
    assert svg(lifted) == (DOCS / "view.svg").read_text(), "llmc view examples/models/gptneox-tiny -o docs/view.svg"
