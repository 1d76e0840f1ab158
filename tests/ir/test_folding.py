"""Layers that are as others are shown once, in dumps and in differences."""

from dataclasses import replace

import pytest

import llmc
from compiler.errors import ParseError
from compiler.ir.diff import diff_graphs, format_diff
from compiler.ir.graph import Graph
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.rewrite import sweep
from tests.paths import MODELS

HEAD = "graph g\ninput x: f16[4]\ninput cache.0.k: f16[2]\ninput cache.1.k: f16[2]\ninput cache.2.k: f16[2]\n"


def layers(*bodies):
    """A graph in which a layer has these lines; `{before}` is what the layer before gives."""
    lines = [
        f"layers.{i}.a:\n{body.format(before='x' if not i else f'layers.{i - 1}.a.out', i=i)}"
        for i, body in enumerate(bodies)
    ]
    return parse_graph(HEAD + "\n".join(lines) + f"\noutput y = %layers.{len(bodies) - 1}.a.out\n")


def left_out(text):
    return [line for line in text.splitlines() if line.startswith("...")]


PLAIN = "%.half: f16[4] = scale(%{before}, factor=0.5)\n%.out: f16[4] = add(%.half, %x)"


def test_layers_that_are_alike_are_shown_once_and_what_they_take_is_said():
    text = print_graph(layers(PLAIN.replace("%x", "%x"), PLAIN, PLAIN, PLAIN), fold_layers=True)
    # The first layer takes %x twice, where the others take two values: it is another one.
    assert left_out(text) == [
        "... cache.1 to cache.2 are as cache.0",
        "... layers.2 to layers.3 are as layers.1, with %.a.out of the layer before in place of %layers.0.a.out",
    ]
    assert "%layers.2" not in text
    assert text.splitlines()[0] == "graph g version 1 folded"
    assert text.count("scale(") == 2


@pytest.mark.parametrize(
    "other",
    [
        PLAIN.replace("0.5", "0.25"),
        PLAIN.replace(".half", ".other"),
        PLAIN.replace("add(%.half, %x)", "add(%x, %.half)"),
        PLAIN + "  !a-pass",
        PLAIN.replace("add", "sub"),
    ],
)
def test_a_layer_that_differs_is_shown(other):
    text = print_graph(layers(PLAIN, PLAIN, PLAIN, other, PLAIN), fold_layers=True)
    assert [line.split(",")[0] for line in left_out(text)] == [
        "... cache.1 to cache.2 are as cache.0",
        "... layers.2 is as layers.1",
    ]


def test_layers_that_do_not_follow_each_other_are_not_taken_together():
    text = "graph g\ninput x: f16[4]\n" + "".join(f"layers.{i}:\n%.y: f16[4] = relu(%x)\n" for i in (0, 1, 3, 4))
    folded = print_graph(parse_graph(text), fold_layers=True)
    assert left_out(folded) == ["... layers.1 is as layers.0", "... layers.4 is as layers.3"]


@pytest.mark.parametrize("model", ["gptj", "gptneox", "mpt", "opt"])
@pytest.mark.parametrize("passes", ["", "quant=int4,merge-linears,fuse-attention,cleanup,cache=paged", "tp=2"])
def test_a_model_is_one_layer_and_its_ends(model, passes):
    graph = llmc.optimize(llmc.lift(MODELS / f"{model}-tiny"), passes).graph
    whole, folded = print_graph(graph), print_graph(graph, fold_layers=True)
    assert sum("layers.1 to layers.3 are as layers.0" in line for line in left_out(folded)) == 1
    kept = [line for line in folded.splitlines() if line and not line.startswith(("...", "graph"))]
    assert set(kept) <= set(whole.splitlines())
    first = [op for op in graph.ops if op.name.startswith("layers.0.")]
    outside = [op for op in graph.ops if not op.name.startswith("layers.")]
    assert sum(line.startswith("  %") for line in kept) == len(first) + len(outside)


def test_a_folded_text_is_refused_with_what_to_do():
    folded = print_graph(layers(PLAIN, PLAIN), fold_layers=True)
    with pytest.raises(ParseError) as caught:
        parse_graph(folded)
    assert str(caught.value) == (
        "line 1: the text leaves out layers that are as others: it is for readers, and no graph\n"
        "  graph g version 1 folded\n"
        "hint: have it written without --fold-layers"
    )


def test_a_difference_that_all_layers_have_is_shown_once():
    before = layers(PLAIN, PLAIN, PLAIN, PLAIN)

    def halved(graph: Graph, scopes: set[str]) -> Graph:
        def visit(op, builder):
            wanted = op.kind.name == "scale" and op.scope in scopes
            return builder.again(op, factor=0.125) if wanted else None

        return sweep(graph, visit, pass_name="halve")

    every = halved(before, {f"layers.{i}.a" for i in range(4)})
    some = halved(before, {"layers.0.a", "layers.1.a", "layers.3.a"})
    shown = format_diff(diff_graphs(before, every), fold_layers=True)
    assert left_out(shown) == [
        "... layers.1 to layers.3 are as layers.0, with %.a.out of the layer before in place of %x"
    ]
    assert shown.count("-   ") == 1
    assert [line.split(",")[0] for line in left_out(format_diff(diff_graphs(before, some), fold_layers=True))] == [
        "... layers.1 is as layers.0"
    ]
    assert not left_out(format_diff(diff_graphs(before, every)))


def test_inputs_that_all_layers_change_are_shown_once():
    text = HEAD + "output y = %x\n"
    before, after = parse_graph(text), parse_graph(text.replace("f16[2]", "i8[2]"))
    assert format_diff(diff_graphs(before, after), fold_layers=True).splitlines() == [
        "- input cache.0.k: f16[2]",
        "+ input cache.0.k: i8[2]",
        "... cache.1 to cache.2 are as cache.0",
    ]
    assert format_diff(diff_graphs(before, replace(before)), fold_layers=True) == ""
