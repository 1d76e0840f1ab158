"""Attention fusion: what it recognises, what its modes mean, and that it changes nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import PassError
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.passes import canonical, parse_pipeline
from compiler.passes.fuse_attention import FuseAttention
from tests.passes.attention_graphs import B, C, S, attention_graph, attention_inputs, fused


def kinds(graph: Graph) -> list[str]:
    return [op.kind.name for op in graph.ops]


def computed(graph: Graph, inputs, **options) -> torch.Tensor:
    return Interpreter(graph, accumulate=torch.float64, **options)(inputs)["y"]


@st.composite
def recognised(draw):
    """Graphs of every form that is recognised, with sizes to run them at."""
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * group
    graph = attention_graph(
        heads=heads,
        kv_heads=kv_heads,
        width=draw(st.integers(1, 4)),
        value_width=draw(st.integers(1, 4)),
        scale=draw(st.sampled_from([1.0, 0.5, 8**-0.5, -3])),
        mask=draw(st.sampled_from([(B, 1, S, C), (S, C), (B, heads, S, C), (1, C), (B, 1, 1, C)])),
        bias=draw(st.sampled_from([None, (heads, 1, C), (B, heads, S, C), (S, C), (1,)])),
        axis=draw(st.sampled_from([-1, 3])),
    )
    return graph, {name: draw(st.integers(1, 4)) for name in "BSC"}


@given(recognised(), st.sampled_from(["fp32", "fp16"]), st.integers(0, 2**31))
def test_fused_is_unfused_in_real_numbers(case, mode, seed):
    graph, sizes = case
    result, _ = fused(graph, mode)
    assert kinds(result) == ["attention"]
    assert result.ops[0].name == graph.outputs["y"].name
    assert result.ops[0].attrs["rounded"] == (mode == "fp16")
    inputs = attention_inputs(graph, seed, **sizes)
    expected, found = (computed(g, inputs, exact=True) for g in (graph, result))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [DType.f16, DType.bf16])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("bias", [None, (B, 4, S, C)])
def test_16_bits_round_as_the_primitives_do(dtype, kv_heads, bias):
    graph = attention_graph(dtype=dtype, kv_heads=kv_heads, bias=bias, scale=0.3)
    inputs = attention_inputs(graph, S=8, C=8)
    # Products of 16-bit numbers and their sums are exact in float64, in whatever order they are added.
    stepwise = computed(graph, inputs)
    assert torch.equal(computed(fused(graph, "fp16")[0], inputs), stepwise)
    exact = computed(graph, inputs, exact=True)
    once = computed(fused(graph, "fp32")[0], inputs)
    assert torch.equal(once, exact.to(once.dtype))
    assert not torch.equal(once, stepwise)


@pytest.mark.parametrize("mode", ["fp32", "fp16"])
def test_queries_scaled_before_the_product_stay_scaled(mode):
    graph = attention_graph(
        dtype=DType.f16, scale=1.0, queries=lambda b, q: b.scale(q, factor=8**-0.5, name="q.scaled")
    )
    result, _ = fused(graph, mode)
    assert kinds(result) == ["scale", "attention"]
    assert (result.ops[1].operands[0].name, result.ops[1].attrs["scale"]) == ("q.scaled", 1.0)
    inputs = attention_inputs(graph)
    if mode == "fp16":
        assert torch.equal(computed(result, inputs), computed(graph, inputs))


def test_the_text_form_says_only_that_it_rounds():
    graph = attention_graph()
    texts = [print_graph(fused(graph, mode)[0]) for mode in ("fp32", "fp16")]
    assert "= attention(%q, %k, %v, %mask, scale=0.5)  !fuse-attention\n" in texts[0]
    assert "= attention(%q, %k, %v, %mask, scale=0.5, rounded=true)  !fuse-attention\n" in texts[1]
    assert [parse_graph(text).ops[0].attrs["rounded"] for text in texts] == [False, True]


def test_off_leaves_the_graph_alone():
    graph = attention_graph()
    assert FuseAttention("off")(graph) is graph


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [("", ""), ("=on", ""), ("=fp32", ""), ("=fp16", "=fp16"), ("=off", "=off"), (":mode=fp16", "=fp16")],
)
def test_canonical_spelling(spelling, expected):
    assert canonical(parse_pipeline(f"fuse-attention{spelling}")) == f"fuse-attention{expected}"


def test_other_modes_are_refused():
    with pytest.raises(PassError, match="option 'mode' of 'fuse-attention' is one of fp32, fp16, on, off, not 'bf16'"):
        parse_pipeline("fuse-attention=bf16")
    with pytest.raises(PassError, match="fuse-attention has no mode 'bf16'"):
        FuseAttention("bf16")  # type: ignore[arg-type]
