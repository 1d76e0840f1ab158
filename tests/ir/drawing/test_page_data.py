"""What goes into a page."""

import json

import llmc
from compiler.ir.drawing.page import page
from compiler.ir.drawing.page_data import Shown, page_data
from compiler.ir.drawing.svg import svg
from tests.ir.drawing.test_vendored import VENDOR

SMALL = 'graph g\ninput x: f32[4]\na from "model.a":\n  %.y: f32[4] = relu(%x)  !my-pass\noutput z = %a.y\n'


def test_an_op_has_its_types_module_and_passes():
    data = page_data([Shown("g", llmc.parse(SMALL))], title="t")
    assert data["ops"] == [["a.y", "relu", ["x"], [["a.y", "f32[4]"]], {}, "model.a", ["my-pass"]]]
    (graph,) = data["graphs"]
    assert [data["paths"][i] for i in graph["groups"]] == [("a",)]
    assert (graph["inputs"], graph["outputs"]) == ([["x", "f32[4]"]], [["z", "a.y"]])
    assert data["kinds"]["relu"] == "`max(x, 0)`."


def test_ops_that_dumps_share_are_written_once(dumps):
    data = page_data(dumps, title="t")
    assert len(data["ops"]) < sum(len(graph["ops"]) for graph in data["graphs"]) / 2
    for shown, graph in zip(dumps, data["graphs"], strict=True):
        assert [data["ops"][row][0] for row in graph["ops"]] == [op.name for op in shown.graph.ops]


def test_differences_are_those_of_neighbours(dumps):
    data = page_data(dumps, title="t")
    assert len(data["diffs"]) == len(dumps) - 1
    fused = data["diffs"][[shown.label for shown in dumps].index("02-fuse-attention") - 1]
    assert fused["changed"][0][:2] == ["layers.0.attn.context", "layers.0.attn.context"]
    assert "layers.0.attn.scores" in fused["removed"]
    assert fused["head"] == []


def test_a_long_literal_is_cut():
    values = ",".join("0.5" for _ in range(300))
    text = f"graph g\n.:\n  %y: f32[300] = literal(dtype=f32, shape=[300], values=[{values}])\noutput z = %y\n"
    (row,) = page_data([Shown("g", llmc.parse(text))], title="t")["ops"]
    assert len(row[4]["values"]) == 200
    assert row[4]["values"].endswith("…")


def test_names_cannot_end_the_script_that_holds_them():
    name = "</script><b>"
    text = SMALL.replace("graph g", f'graph "{name}"').replace("my-pass", f'"{name}"')
    written = page([Shown(name, llmc.parse(text))], title=name)
    assert name not in written
    head, _, rest = written.partition('<script type="application/json" id="data">')
    assert "&lt;/script&gt;" in head
    assert json.loads(rest.partition("</script>")[0])["graphs"][0]["name"] == name
    assert name not in svg(llmc.parse(text), label=name)


def test_a_page_needs_nothing_from_elsewhere(lifted):
    written = page([Shown("g", lifted)], title="g")
    for library in (VENDOR / "d3.min.js", VENDOR / "dagre.min.js"):
        kept = library.read_text().partition("//# sourceMappingURL")[0].strip()
        assert kept in written
        written = written.replace(kept, "")
    # What would load something; the browser test sees that nothing is loaded.
    assert [
        what for what in ("<link", " src=", "@import", "url(", "sourceMappingURL", "fetch(") if what in written
    ] == []
