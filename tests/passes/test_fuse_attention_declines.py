"""Attention that is not fused, and what `--explain` says about it."""

from typing import Any

import pytest

from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from tests.passes.attention_graphs import B, C, S, attention_graph, fused

WHOLE = (B, 4, S, C)


def capped(b, scores):
    return b.scale(b.tanh(scores, name="tanh"), factor=30.0, name="capped")


def shown(b, value):
    b.output("shown", b.relu(value, name="reader"))
    return value


def emitted(b, value):
    b.output("shown", value)
    return value


DECLINED: dict[str, tuple[dict[str, Any], str]] = {
    "no mask": ({"mask": None}, "the scores are not a product behind a mask: expected where, found scale %scaled"),
    "no mask, biased": ({"mask": None, "bias": WHOLE}, "behind a mask: expected where, found add %biased"),
    "other hidden value": (
        {"hidden": -1e9},
        "%minus_infinity, which stands where the mask hides, is not a literal of minus infinity",
    ),
    "cap": ({"scored": capped}, "behind a mask: expected matmul, found tanh %tanh"),
    "factor that is no constant": (
        {"scored": lambda b, x: b.mul(x, x, name="squared")},
        "behind a mask: expected matmul, found mul %squared",
    ),
    "softmax over queries": ({"axis": 2}, "the softmax %probs is over axis 2, not over the keys"),
    "softmax over heads": ({"axis": -3}, "the softmax %probs is over axis -3, not over the keys"),
    "reader of probabilities": ({"seen": shown}, "%probs is read by relu %reader too"),
    "reader, heads shared": ({"seen": shown, "kv_heads": 2}, "%probs is read by relu %reader too"),
    "reader of scores": ({"scored": shown}, "%scaled is read by relu %reader too"),
    "probabilities as output": ({"seen": emitted}, "%probs is an output of the graph"),
    "mask of more queries": (
        {"mask": (B, 1, S, C), "queries": lambda b, q: b.slice(q, axis=2, start=0, size=1)},
        "the scores are f32[B,4,S,C], not a row for each of the queries f32[B,4,1,8] with a column for each key",
    ),
    "bias of more rows": (
        {"bias": (B, 4, S, C), "queries": lambda b, q: b.slice(q, axis=0, start=0, size=1)},
        "queries f32[1,4,S,8], keys f32[B,4,C,8] and values f32[B,4,C,8] differ in more than heads, length and width",
    ),
    "heads in two dims": (
        {"kv_heads": 2, "queries": lambda b, q: b.reshape(q, shape=(B, 2, 2, S, 8))},
        "the queries are f32[B,2,2,S,8] and the keys f32[B,2,C,8], not [B, heads, positions, D]",
    ),
    "heads among positions": (
        {"kv_heads": 2, "queries": lambda b, q: b.reshape(q, shape=(B, S, 4, 8))},
        "S query heads do not share 2 key heads evenly",
    ),
    "group of other heads": (
        {"kv_heads": 2, "queries": lambda b, q: b.reshape(q, shape=(B, 2, 2 * S, 8))},
        "the scores are f32[B,4,S,C], not a row for each of the queries f32[B,2,2*S,8]",
    ),
}


@pytest.mark.parametrize("case", DECLINED)
def test_what_is_declined_and_why(case):
    change, reason = DECLINED[case]
    graph = attention_graph(**change)
    result, explained = fused(graph)
    assert result is graph
    declined = [line for line in explained.splitlines() if line.startswith("    declined %context")]
    assert len(declined) == 1 and reason in declined[0]


def test_a_mask_the_wrong_way_round_is_declined():
    b = Builder()
    q, k, v = (b.input(name, DType.f32, 2, 4, 5, 8) for name in "qkv")
    mask, hidden = b.input("mask", DType.bool, 5, 5), b.literal(dtype=DType.f32, shape=(1,), values=(float("-inf"),))
    scores = b.where(mask, hidden, b.matmul(q, k, transpose_b=True))
    b.output("y", b.matmul(b.softmax(scores), v))
    graph = b.build()
    result, explained = fused(graph)
    assert result is graph
    assert f"expected matmul, found literal %{hidden.name}" in explained


@pytest.mark.parametrize(
    ("folded", "probs", "context", "reason"),
    [
        (
            (2, 2, 3, 8),
            (1, 1, 12, 5),
            (1, 4, 3, 8),
            "the queries are reshaped to f32[2,2,3,8], which is not a group of",
        ),
        (
            (1, 1, 12, 8),
            (2, 2, 3, 5),
            (1, 4, 3, 8),
            "the probabilities are reshaped to f32[2,2,3,5], not as the querie",
        ),
        ((1, 1, 12, 8), (1, 1, 12, 5), (1, 3, 4, 8), "the context is reshaped to f32[1,3,4,8], not back to the query"),
    ],
)
def test_other_groups_of_heads_are_declined(folded, probs, context, reason):
    b = Builder()
    q, (k, v) = b.input("q", DType.f32, 1, 4, 3, 8), (b.input(name, DType.f32, 1, 1, 5, 8) for name in "kv")
    product = b.matmul(b.reshape(q, shape=folded), k, transpose_b=True)
    hidden = b.literal(dtype=DType.f32, shape=(1,), values=(float("-inf"),))
    scores = b.where(b.input("mask", DType.bool, 3, 5), b.reshape(product, shape=(1, 4, 3, 5)), hidden)
    b.output("y", b.reshape(b.matmul(b.reshape(b.softmax(scores), shape=probs), v), shape=context))
    graph = b.build()
    result, explained = fused(graph)
    assert result is graph
    assert reason in explained


def test_scores_that_are_given_are_declined():
    b = Builder()
    scores, v = b.input("scores", DType.f32, 2, 4, 3, 5), b.input("v", DType.f32, 2, 4, 5, 8)
    b.output("y", b.matmul(b.softmax(scores), v))
    graph = b.build()
    result, explained = fused(graph)
    assert result is graph
    assert "the scores %scores are an input" in explained
