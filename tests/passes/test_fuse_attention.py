"""Attention fusion: what it recognises, what it declines, and that it changes nothing."""

import math

import pytest
import torch

from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.interpreter import Interpreter
from compiler.ir.trace import Trace
from compiler.ir.verifier import verify
from compiler.passes.fuse_attention import FuseAttention

B, S, C = symbol("B"), symbol("S"), symbol("C")


def attention_graph(*, heads=4, kv_heads=4, bias=False, scale=0.5, hidden=-math.inf, softcap=None):
    """Attention as frontends write it, from given queries and caches."""
    b = Builder()
    b.dims = {"B": DimRange(1, 2, 4), "S": DimRange(1, 3, 8), "C": DimRange(1, 5, 8)}
    q = b.input("q", DType.f32, B, heads, S, 8)
    k, v = (b.input(name, DType.f32, B, kv_heads, C, 8) for name in ("k", "v"))
    mask = b.input("mask", DType.bool, B, 1, S, C)
    minus_infinity = b.literal(dtype=DType.f32, shape=(1,), values=(hidden,))
    group = heads // kv_heads
    if group > 1:
        q = b.reshape(q, shape=(B, kv_heads, group * S, 8))
    scores = b.matmul(q, k, transpose_b=True)
    if group > 1:
        scores = b.reshape(scores, shape=(B, heads, S, C))
    if scale != 1.0:
        scores = b.scale(scores, factor=scale)
    if softcap:
        scores = b.scale(b.tanh(scores), factor=softcap)
    if bias:
        scores = b.add(b.input("bias", DType.f32, heads, 1, C), scores)
    probs = b.softmax(b.where(mask, scores, minus_infinity))
    if group > 1:
        probs = b.reshape(probs, shape=(B, kv_heads, group * S, C))
    context = b.matmul(probs, v, name="context")
    if group > 1:
        context = b.reshape(context, shape=(B, heads, S, 8), name="context.heads")
    b.output("y", context)
    return b.build()


def fused(graph):
    trace = Trace()
    with trace.active():
        result = FuseAttention()(graph)
    verify(result)
    return result, trace


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_fused_equals_primitive(kv_heads, bias, scale):
    graph = attention_graph(kv_heads=kv_heads, bias=bias, scale=scale)
    result, _ = fused(graph)
    assert [op.kind.name for op in result.ops] == ["attention"]
    assert result.ops[0].attrs["scale"] == scale
    assert result.ops[0].name == ("context" if kv_heads == 4 else "context.heads")
    torch.manual_seed(0)
    inputs = {"q": torch.randn(2, 4, 3, 8), "k": torch.randn(2, kv_heads, 5, 8), "v": torch.randn(2, kv_heads, 5, 8)}
    inputs["mask"] = torch.ones(2, 1, 3, 5, dtype=torch.bool).tril(1)
    if bias:
        inputs["bias"] = torch.randn(4, 1, 5)
    expected, found = (Interpreter(g, accumulate=torch.float64, exact=True)(inputs)["y"] for g in (graph, result))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden": -1e9}, "stands where the mask hides, is not a literal of minus infinity"),
        ({"softcap": 30.0}, "expected matmul, found tanh"),
    ],
)
def test_what_is_declined_and_why(change, reason):
    graph = attention_graph(**change)
    result, trace = fused(graph)
    assert result is graph
    assert reason in trace.text()


def test_off_leaves_the_graph_alone():
    graph = attention_graph()
    assert FuseAttention("off")(graph) is graph
