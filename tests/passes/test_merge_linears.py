"""Linears that share an input: golden text, equal numbers, and the reasons for leaving some alone."""

from __future__ import annotations

import pytest

from compiler.frontends import lift, open_checkpoint
from compiler.ir.graph import Graph
from compiler.ir.trace import Trace
from compiler.ir.verifier import verify
from compiler.passes import MergeLinears, cleanup, merge_linears
from tests.passes.checks import assert_golden, assert_same_meaning, graph_of
from tests.paths import MODELS


def random(name: str, *shape: int) -> str:
    sizes = ",".join(map(str, shape))
    return f'%{name}: f32[{sizes}] = random(key="{name}", dtype=f32, shape=[{sizes}])'


ATTENTION = f"""
    input x: f32[B,4]
    attn from model.attn:
      {random("attn.q.weight", 4, 4)}
      {random("attn.q.bias", 4)}
      %attn.q: f32[B,4] = linear(%x, %attn.q.weight, %attn.q.bias)
      %attn.q.act: f32[B,4] = tanh(%attn.q)
      {random("attn.k.weight", 2, 4)}
      {random("attn.k.stored", 1, 2)}
      %attn.k.bias: f32[2] = reshape(%attn.k.stored, shape=[2])
      %attn.k: f32[B,2] = linear(%x, %attn.k.weight, %attn.k.bias)
      {random("attn.v.weight", 3, 4)}
      {random("attn.v.bias", 3)}
      %attn.v: f32[B,3] = linear(%x, %attn.v.weight, %attn.v.bias)
      %attn.y: f32[B,9] = concat(%attn.q.act, %attn.k, %attn.v, axis=-1)
    output y = %attn.y
    """


def test_golden() -> None:
    after = f"""
        input x: f32[B,4]
        attn from model.attn:
          {random("attn.q.weight", 4, 4)}
          {random("attn.q.bias", 4)}
          {random("attn.k.weight", 2, 4)}
          {random("attn.v.weight", 3, 4)}
          {random("attn.k.stored", 1, 2)}
          %attn.k.bias: f32[2] = reshape(%attn.k.stored, shape=[2])
          {random("attn.v.bias", 3)}
          %attn.q_k_v.weight: f32[9,4] = concat(%.q.weight, %.k.weight, %.v.weight, axis=0)  !merge-linears
          %attn.q_k_v.bias: f32[9] = concat(%.q.bias, %.k.bias, %.v.bias, axis=0)  !merge-linears
          %attn.q_k_v: f32[B,9] = linear(%x, %.q_k_v.weight, %.q_k_v.bias)  !merge-linears
          %.q: f32[B,4], %.k: f32[B,2], %.v: f32[B,3] = split(%.q_k_v, axis=-1, sizes=[4,2,3])  !merge-linears
          %attn.q.act: f32[B,4] = tanh(%attn.q)
          %attn.y: f32[B,9] = concat(%attn.q.act, %attn.k, %attn.v, axis=-1)
        output y = %attn.y
        """
    merged = assert_golden(merge_linears, ATTENTION, after)
    assert_same_meaning(graph_of(ATTENTION), merged, rtol=1e-6, atol=1e-7)


def test_applies_once() -> None:
    merged = merge_linears(graph_of(ATTENTION))
    assert merge_linears(merged) is merged


def test_pieces_of_one_weight_become_that_weight_again() -> None:
    before = """
        input x: f32[B,4]
        .:
          %qkv: f32[6,4] = random(key="w", dtype=f32, shape=[6,4])
          %a: f32[4,4], %b: f32[2,4] = split(%qkv, axis=0, sizes=[4,2])
          %q: f32[B,4] = linear(%x, %a)
          %k: f32[B,2] = linear(%x, %b)
        output q = %q
        output k = %k
        """
    after = """
        input x: f32[B,4]
        .:
          %qkv: f32[6,4] = random(key="w", dtype=f32, shape=[6,4])
          %q_k: f32[B,6] = linear(%x, %qkv)  !merge-linears
          %q: f32[B,4], %k: f32[B,2] = split(%q_k, axis=-1, sizes=[4,2])  !merge-linears
        output q = %q
        output k = %k
        """
    assert_golden(lambda graph: cleanup(merge_linears(graph)), before, after)


def test_with_and_without_bias_are_merged_apart() -> None:
    graph = graph_of(f"""
        input x: f32[B,4]
        layer:
          {random("layer.attn.q.weight", 4, 4)}
          %layer.attn.q: f32[B,4] = linear(%x, %layer.attn.q.weight)
          {random("layer.up.weight", 2, 4)}
          {random("layer.up.bias", 2)}
          %layer.up: f32[B,2] = linear(%x, %layer.up.weight, %layer.up.bias)
          {random("layer.attn.k.weight", 4, 4)}
          %layer.attn.k: f32[B,4] = linear(%x, %layer.attn.k.weight)
          {random("layer.gate.weight", 2, 4)}
          {random("layer.gate.bias", 2)}
          %layer.gate: f32[B,2] = linear(%x, %layer.gate.weight, %layer.gate.bias)
          %layer.y: f32[B,12] = concat(%layer.attn.q, %layer.up, %layer.attn.k, %layer.gate, axis=-1)
        output y = %layer.y
        """)
    merged = merge_linears(graph)
    verify(merged)
    assert [op.name for op in merged.find("linear")] == ["layer.attn.q_k", "layer.up_gate"]
    assert_same_meaning(graph, merged, rtol=1e-6, atol=1e-7)


def declined(graph: Graph) -> list[str]:
    """What the pass says of the linears that it leaves; it leaves all."""
    with Trace().active() as trace:
        assert merge_linears(graph) is graph
    return list(map(str, trace.rule("merge-linears", "merge_linears").declined.values()))


def test_declines_a_bias_on_one_only() -> None:
    graph = graph_of(f"""
        input x: f32[B,4]
        .:
          {random("a", 4, 4)}
          {random("b", 4, 4)}
          {random("bias", 4)}
          %p: f32[B,4] = linear(%x, %a)
          %q: f32[B,4] = linear(%x, %b, %bias)
        output p = %p
        output q = %q
        """)
    assert declined(graph) == [
        "%p from the graph: it has no bias, where the other linears of %x have a bias",
        "%q from the graph: it has a bias, where the other linears of %x have no bias",
    ]


def test_declines_weights_that_are_not_constant() -> None:
    graph = graph_of(f"""
        input x: f32[B,4]
        input w: f32[4,4]
        .:
          {random("a", 4, 4)}
          %p: f32[B,4] = linear(%x, %a)
          %q: f32[B,4] = linear(%x, %w)
        output p = %p
        output q = %q
        """)
    assert declined(graph) == ["%q from the graph: %w is not constant"]


def test_declines_weights_that_something_else_uses() -> None:
    graph = graph_of(f"""
        input x: f32[B,4]
        input ids: i32[B]
        .:
          {random("a", 4, 4)}
          {random("b", 4, 4)}
          {random("c", 4, 4)}
          %rows: f32[B,4] = embedding(%a, %ids)
          %p: f32[B,4] = linear(%x, %a)
          %q: f32[B,4] = linear(%x, %b)
          %r: f32[B,4] = linear(%x, %c)
        output p = %p
        output q = %q
        output r = %r
        output rows = %rows
        output c = %c
        """)
    assert declined(graph) == [
        "%p from the graph: %a is also used by %rows, so it would be stored twice",
        "%r from the graph: %c is also used by the output 'c', so it would be stored twice",
    ]


def test_leaves_linears_of_different_inputs_alone() -> None:
    graph = graph_of(f"""
        input x: f32[B,4]
        input y: f32[B,4]
        .:
          {random("a", 4, 4)}
          {random("b", 4, 4)}
          %p: f32[B,4] = linear(%x, %a)
          %q: f32[B,4] = linear(%y, %b)
        output p = %p
        output q = %q
        """)
    assert declined(graph) == []


@pytest.mark.parametrize("model", ["gptj-tiny", "gptneox-tiny", "mpt-tiny", "opt-tiny"])
def test_one_product_makes_q_k_and_v_of_lifted_models(model: str) -> None:
    graph = lift(open_checkpoint(MODELS / model))
    merged = cleanup(merge_linears(graph))
    verify(merged)
    layers = int(graph.facts["layers"])
    assert len(list(graph.find("linear"))) - len(list(merged.find("linear"))) == 2 * layers
    assert {op.name for op in merged.find("split") if op.name in {f"layers.{i}.attn.q" for i in range(layers)}} == {
        f"layers.{i}.attn.q" for i in range(layers)
    }


def test_off_leaves_the_graph_alone() -> None:
    graph = graph_of(ATTENTION)
    assert MergeLinears("off")(graph) is graph
    assert MergeLinears()(graph) == merge_linears(graph)
