"""Texts of older versions load; newer ones say why not."""

from dataclasses import replace
from pathlib import Path

import pytest

from compiler.errors import ParseError
from compiler.ir.files import read_graph
from compiler.ir.mesh import mesh_of
from compiler.ir.parser import parse_graph
from compiler.ir.printer import TEXT_VERSION, print_graph
from compiler.ir.step_interface import check_step
from compiler.ir.verifier import verify

TEXTS = sorted((Path(__file__).parent / "texts").glob("*.ir"))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_a_text_of_an_older_version_loads(path):
    graph = read_graph(path)
    verify(graph)
    check_step(graph)
    text = print_graph(replace(graph, root="."))
    assert text.startswith(f"graph {graph.name} version {TEXT_VERSION}\n")
    assert parse_graph(text) == replace(graph, root=".")
    assert text.splitlines()[1:] == path.read_text().splitlines()[1:]  # what an op means to say has not changed


def test_the_texts_have_every_version_and_the_ops_that_came_with_passes():
    assert {int(path.stem.rpartition("-")[2]) for path in TEXTS} == set(range(TEXT_VERSION))
    graphs = {path.stem: read_graph(path) for path in TEXTS}
    assert mesh_of(graphs["mesh-0"]).size == 4
    kinds = {op.kind.name for graph in graphs.values() for op in graph.ops}
    assert {"shard", "all_reduce", "transfer", "quantize", "dequantize", "attention", "paged_attention"} <= kinds


@pytest.mark.parametrize("version", [TEXT_VERSION + 1, 999, 0])
def test_a_text_of_a_version_that_is_not_known_is_refused_on_its_first_line(version):
    with pytest.raises(ParseError) as caught:
        parse_graph(f"graph g version {version}\nsomething new\n")
    assert str(caught.value) == (
        f"line 1: the text is of version {version} of the form; this llmc reads versions up to {TEXT_VERSION}\n"
        f"  graph g version {version}\n"
        "hint: read it with a newer llmc, or have the one that wrote it write it again for this one"
    )
