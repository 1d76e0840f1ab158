"""Groups of names, and layers that are alike."""

import pytest

import llmc
from compiler.ir.drawing.outline import group_label, outline


def stack(*factors: float) -> str:
    """A graph with a layer for each factor, by which it scales."""
    text, before = "graph g\ninput x: f32[4]\n", "x"
    for i, factor in enumerate(factors):
        text += (
            f"\nlayers.{i}.mlp:\n  %.up: f32[4] = scale(%{before}, factor={factor})\n  %.up.act: f32[4] = relu(%.up)\n"
        )
        text += f"layers.{i}:\n  %.sum: f32[4] = add(%{before}, %.mlp.up.act)\n"
        before = f"layers.{i}.sum"
    return text + f"\noutput y = %{before}\n"


def paths(text: str) -> dict[str, tuple[str, ...]]:
    graph = llmc.parse(text)
    return dict(zip([op.name for op in graph.ops], outline(graph).paths, strict=True))


def test_groups_are_scopes_without_those_that_are_values_or_number_layers():
    found = paths(stack(2.0))
    assert found["layers.0.mlp.up"] == found["layers.0.mlp.up.act"] == ("layers.0", "layers.0.mlp")
    assert found["layers.0.sum"] == ("layers.0",)


def test_layers_that_are_alike_are_a_run():
    found = paths(stack(2.0, 2.0, 2.0))
    assert found["layers.0.sum"] == ("layers.0",)
    assert found["layers.1.mlp.up"] == ("layers.1..2", "layers.1", "layers.1.mlp")
    assert outline(llmc.parse(stack(2.0, 2.0, 2.0))).alike == dict.fromkeys(
        ("layers.1", "layers.2", "layers.1..2"), "layers.0"
    )


def test_a_layer_that_differs_ends_a_run_and_has_runs_of_its_own():
    found = {path[0] for path in paths(stack(2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 2.0)).values()}
    assert found == {"layers.0", "layers.1..2", "layers.3", "layers.4..5", "layers.6"}
    alike = outline(llmc.parse(stack(2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 2.0))).alike
    assert (alike["layers.4..5"], alike["layers.6"]) == ("layers.3", "layers.0")
    assert "layers.3" not in alike


def test_layers_are_alike_whatever_their_weights(lifted):
    alike = outline(lifted).alike
    assert alike["layers.1..3"] == "layers.0"


def test_values_of_other_graphs_keep_groups_the_same():
    graph = llmc.parse("graph g\ninput x: f32[4]\na.q:\n  %.rows: f32[4] = relu(%x)\noutput y = %a.q.rows\n")
    assert outline(graph).paths == (("a", "a.q"),)
    assert outline(graph, ["a.q"]).paths == (("a",),)


@pytest.mark.parametrize(
    ("group", "outer", "label"),
    [
        ("positions", "", "positions"),
        ("layers.0.attn", "layers.0", "attn"),
        ("a.b", "", "a.b"),
        ("layers.0", "", "layers.0"),
        ("layers.1..3", "", "layers.1..3, like layers.0"),
    ],
)
def test_labels(group, outer, label):
    assert group_label(group, outer, {"layers.1..3": "layers.0"}) == label
