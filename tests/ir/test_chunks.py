"""How long steps may be follows from the values of a graph that grow with a product of lengths."""

import pytest

import llmc
from compiler.ir import chunks
from compiler.ir.chunks import BUDGET, chunk_length, elements_per_token
from tests.paths import MODELS

HEADS = 4
FUSED, PLAIN = "merge-linears,fuse-attention,cleanup", "cleanup"


def graph(model, passes):
    return llmc.optimize(llmc.lift(MODELS / model, max_batch=8, max_seq=512), passes).graph


@pytest.mark.parametrize(
    ("model", "passes", "scores", "heads"),
    [
        ("gptneox-tiny", FUSED, False, 1),  # the mask
        ("gptneox-tiny", FUSED, True, HEADS),
        ("gptneox-tiny", PLAIN, False, HEADS),  # scores are values of the graph
        ("mpt-tiny", FUSED, False, HEADS),  # the ALiBi bias
        ("mpt-tiny", FUSED, True, HEADS),
        ("mpt-tiny", PLAIN, True, HEADS),
    ],
)
def test_the_largest_value_with_both_lengths_counts(model, passes, scores, heads):
    found = elements_per_token(graph(model, passes), 3, 500, holds_scores=lambda op: scores)
    assert found == 3 * heads * 500


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("capacity", [1, 64, 500, 10_000, 1_000_000, 2**28])
def test_chunks_are_as_long_as_the_budget_allows(batch, capacity):
    alibi = graph("mpt-tiny", FUSED)
    length = chunk_length(alibi, batch, capacity, holds_scores=lambda op: False)
    each = batch * HEADS * capacity
    assert 1 <= length <= capacity
    assert length * each <= max(BUDGET, each)
    assert length == capacity or length < 64 or length % 64 == 0
    assert length == capacity or (length + 64) * each > BUDGET


def test_what_has_no_value_with_both_lengths_needs_no_chunks():
    whole = graph("gptneox-tiny", PLAIN)
    embedding = whole.with_ops(tuple(op for op in whole.ops if "C" not in op.results[0].type.symbols), {})
    assert chunk_length(embedding, 8, 2**28, holds_scores=lambda op: True) == 2**28


def test_the_budget_is_what_counts(monkeypatch):
    rotary = graph("gptneox-tiny", FUSED)
    lengths = []
    for budget in (1, 500, 5_000, 50_000, 500_000):
        monkeypatch.setattr(chunks, "BUDGET", budget)
        lengths.append(chunk_length(rotary, 1, 500, holds_scores=lambda op: False))
    assert lengths == [1, 1, 10, 64, 500]
