"""Checkpoints of GPTQ with activation order on several ranks."""

import pytest
import torch

from compiler.ir.analysis import packed_weights
from compiler.ir.constants import needed_constants
from compiler.ir.mesh import collectives, rank_graph
from compiler.ir.sinking import sink_slices
from compiler.passes import run_pipeline
from compiler.passes.parallel.unsort import sorted_linears, unsort
from tests.frontends.quantized import writers
from tests.frontends.quantized.checkpoints import FAMILIES, write
from tests.frontends.quantized.test_importers import gptq_config
from tests.frontends.steps import lift_folder
from tests.passes.parallel.meshes import AUTOMATIC, logits, rewritten

VOCAB = 31


@pytest.fixture(params=FAMILIES)
def graph(request, tmp_path):
    model = FAMILIES[request.param]()
    write(model, writers.gptq(order=True), tmp_path, **gptq_config(desc_act=True))
    return lift_folder(tmp_path)


def test_linears_read_what_was_sorted(graph):
    known = sorted_linears(graph)
    assert {op.name for op in graph.find("linear") if op.operands[1].type.shape[0] != VOCAB} == known.keys()
    plain = unsort(graph, known, "tp")
    assert not sorted_linears(plain)
    torch.testing.assert_close(logits(plain, VOCAB), logits(graph, VOCAB), rtol=1e-6, atol=1e-6)


def test_ranks_compute_what_one_does_and_split_what_they_would_without_an_order(graph):
    split = rewritten(graph, f"tp=2,{AUTOMATIC}")
    assert collectives(split)["all_reduce"] > 0
    torch.testing.assert_close(logits(split, VOCAB), logits(graph, VOCAB), rtol=1e-6, atol=1e-6)


def test_only_what_is_split_by_its_inputs_loses_its_groups(graph):
    """Each layer has two such linears; a rank stores half of their weights, in the type of the model."""
    own = sink_slices(rank_graph(rewritten(graph, "tp=2"), 0))
    packed = packed_weights(own)
    partial = [op for op in own.find("linear") if op.name.endswith(".partial")]
    assert len(partial) == 2 * int(graph.facts["layers"])
    stored = {value.name for value in needed_constants(own)}
    for op in own.find("linear"):
        weight = op.operands[1]
        if op in partial:
            whole = graph.producers[op.name.removesuffix(".partial")].operands[1]
            assert weight.name in stored and 2 * weight.type.elements == whole.type.elements
        elif weight.type.shape[0] != VOCAB:
            assert weight.name in packed


def test_what_loses_its_groups_is_noted(graph):
    count = 2 * int(graph.facts["layers"])
    note = run_pipeline(graph, "tp=2").notes[0]
    assert note.startswith(f"tp=2: {count} quantized linears are stored dequantized: their weights are in the order")
