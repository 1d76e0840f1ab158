"""Packed steps over paged caches compute what padded steps over linear ones do; what has no such form is refused."""

import json
import re

import pytest
import torch
from hypothesis import given, settings

import llmc
from compiler.errors import GraphError
from compiler.ir import paged as paged_module
from compiler.ir.dtypes import DType
from compiler.ir.evaluators import nn
from compiler.ir.evaluators import paged as evaluators
from compiler.ir.mesh import rank_graph
from compiler.ir.op import Op
from compiler.ir.paged import paged
from compiler.ir.paged_layout import CACHE_BLOCK
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.step_interface import StepInterface, check_step
from compiler.ir.verifier import verify
from compiler.passes import run_pipeline
from compiler.passes.quant.caches.kv import quantize_caches, scale_of
from llmc.verification.tolerance import logits_tolerance
from runtime.executors.interpreter import InterpreterExecutor
from tests.paged_schedules import (
    CAPACITY,
    MIXED,
    blocks_needed,
    largest_error,
    models,
    packed_logits,
    padded_logits,
    schedules,
)
from tests.passes.parallel.configs import noise_model
from tests.paths import MODELS

FUSED = "merge-linears,fuse-attention,cleanup"
FAMILIES = ("gptneox", "gptj", "opt", "mpt")


def lifted(family, passes=FUSED):
    return llmc.optimize(llmc.lift(MODELS / f"{family}-tiny", max_batch=4, max_seq=32), f"dtype=float32,{passes}").graph


def error_of(graph, schedule):
    """How far packed logits of the interpreter are from padded ones."""
    vocab = int(graph.facts["vocab_size"])
    packed = paged(graph, schedule.block)
    verify(packed)
    check_step(packed, before=graph)
    assert parse_graph(print_graph(packed)) == packed
    expected = padded_logits(InterpreterExecutor(graph).open(schedule.sequences, CAPACITY), schedule, vocab)
    found = packed_logits(InterpreterExecutor(packed).open_paged(blocks_needed(schedule)), schedule, vocab)
    return largest_error(found, expected)


def with_caches(graph, dtype):
    """The graph with quantized caches, whose heads have different scales."""
    heads = int(graph.facts["kv_heads"])
    scales = {name: scale_of(torch.linspace(3, 6, heads), dtype) for name in graph.states()}
    return quantize_caches(graph, dtype, scales)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_examples_give_the_same_logits(family):
    assert error_of(lifted(family), MIXED) < logits_tolerance("float32", 4)


@settings(max_examples=25)
@given(models(), schedules())
def test_random_models_give_the_same_logits(case, schedule):
    graph = run_pipeline(noise_model(case.config), FUSED).graph
    assert error_of(graph, schedule) < logits_tolerance("float32", 3)


@pytest.mark.parametrize("dtype", [DType.i8, DType.f8e4m3])
@pytest.mark.parametrize("family", ["gptneox", "mpt"])
def test_quantized_caches_give_the_same_logits(family, dtype):
    """A value between two codes may get either, where a sum has another order: that is the caches' own error."""
    graph = run_pipeline(with_caches(lifted(family, "cleanup"), dtype), FUSED).graph
    assert {value.type.dtype for value, _ in paged(graph, 4).states().values()} == {dtype}
    assert error_of(graph, MIXED) < 0.05


FOUNDRY = {"vocab_size": 31, "d_model": 24, "n_heads": 6, "n_layers": 2, "max_seq_len": 32, "model_type": "mpt"}
VARIANTS = {
    "window": {"alibi": True, "sliding_window_size": 3},
    "shared heads": {"attn_type": "grouped_query_attention", "kv_n_heads": 2, "alibi": True},
    "one key head": {"attn_type": "multiquery_attention", "alibi": False, "rope": True},
    "no positions but learned ones": {"alibi": False},
}


@pytest.mark.parametrize("attn", VARIANTS.values(), ids=VARIANTS)
def test_variants_of_attention_give_the_same_logits(attn):
    graph = run_pipeline(noise_model({**FOUNDRY, "attn_config": attn}), FUSED).graph
    assert error_of(graph, MIXED) < logits_tolerance("float32", 2)
    windows = {op.attrs["window"] for op in paged(graph).find("paged_attention")}
    assert windows == {attn.get("sliding_window_size", -1)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_biases_of_16_bit_models_are_rounded_as_before(dtype):
    graph = llmc.optimize(llmc.lift(MODELS / "mpt-tiny", max_batch=4, max_seq=32), f"dtype={dtype},{FUSED}").graph
    assert error_of(graph, MIXED) < logits_tolerance(dtype, 4)


def test_scores_of_many_tokens_are_computed_some_at_a_time(monkeypatch):
    most = []
    attend = nn.attend

    def watched(q, k, *rest):
        most.append(q.shape[1] * q.shape[2] * k.shape[2])
        return attend(q, k, *rest)

    monkeypatch.setattr(evaluators, "attend", watched)
    monkeypatch.setattr(evaluators, "BUDGET", 60)
    assert error_of(lifted("mpt"), MIXED) < logits_tolerance("float32", 4)
    assert max(most) <= 4 * 18  # the budget, or one token


def test_the_inputs_are_those_of_a_packed_step():
    interface = StepInterface.of(paged(lifted("opt"), 8))
    assert [str(value) for value in interface.inputs] == [
        "%token_ids: i32[T]",
        "%token_positions: i32[T]",
        "%token_rows: i32[T]",
        "%block_tables: i32[B,M]",
        "%logit_pos: i32[R]",
    ]
    assert interface.block == 8
    assert {str(value.type) for value in interface.caches} == {"f32[N,8,4,32]"}


@pytest.mark.parametrize("pp", [2, 3])
def test_a_stage_can_be_paged_by_itself(pp):
    graph = lifted("gptj", f"pp={pp},{FUSED}")
    for rank in range(pp):
        assert paged(rank_graph(graph, rank), 8) == rank_graph(paged(graph, 8), rank)


def test_paging_twice_is_paging_once_or_an_error():
    once = paged(lifted("opt"), 8)
    assert paged(once, 8) is once
    assert once.facts[CACHE_BLOCK] == 8
    with pytest.raises(GraphError, match="paged already, in blocks of 8 tokens"):
        paged(once, 16)
    with pytest.raises(GraphError, match="a block of 0 tokens"):
        paged(lifted("opt"), 0)


def test_attention_that_is_not_fused_is_refused():
    with pytest.raises(GraphError, match=r"matmul %layers\.0\.attn\.scores .* reads all of a cache") as caught:
        paged(lifted("opt", "cleanup"))
    assert "capped" not in caught.value.message
    assert "fuse-attention" in str(caught.value.hint)


@pytest.mark.parametrize("change", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_a_cap_on_scores_is_refused_by_name_and_one_on_logits_is_none(change, tmp_path):
    config = json.loads((MODELS / "mpt-tiny" / "config.json").read_text())
    (config["attn_config"] if change.startswith("attn") else config)[change] = 20.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    graph = llmc.lift(tmp_path, dummy_weights=True, max_batch=4, max_seq=32)
    unfused, fused = (llmc.optimize(graph, f"dtype=float32,{passes}").graph for passes in ("cleanup", FUSED))
    if change.startswith("final"):
        paged(fused)
        with pytest.raises(GraphError, match=r"reads all of a cache") as caught:
            paged(unfused)
        assert "capped" not in caught.value.message  # the logits are, long after the probabilities
        return
    for each in (fused, unfused):
        with pytest.raises(
            GraphError, match=r"attn\.scores .* reads all of a cache, and whose scores are capped"
        ) as caught:
            paged(each)
        assert "--explain" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("family", "old", "new", "message"),
    [
        ("opt", "less_equal(%.slots, %.queries)", "less(%.slots, %.queries)", "mask is not that of causal attention"),
        ("opt", "add(%.past, %.new)", "sub(%.past, %.new)", "mask is not that of causal attention"),
        ("mpt", "mul(%.slopes, %.distance.f32)", "div(%.distance.f32, %.slopes)", "bias is not that of ALiBi"),
        ("opt", "where(%.known, %.ids, %.last)", "where(%.known, %.past, %.last)", "reads past_len"),
        ("opt", "where(%.known, %.ids, %.last)", "where(%.known, %.new, %.last)", "counts the tokens of a row"),
    ],
)
def test_other_uses_of_positions_are_refused(family, old, new, message):
    text = print_graph(lifted(family))
    assert old in text
    with pytest.raises(GraphError, match=message):
        paged(parse_graph(_retyped(text.replace(old, new))))


def _retyped(text):
    return re.sub(r"(%\.embedding: )f32\[B,1,", r"\1f32[B,S,", text)


def test_every_op_knows_who_changed_it():
    changed: list[Op] = [op for op in paged(lifted("gptj")).ops if op.kind.name.startswith("paged_")]
    assert len(changed) == 12
    assert {op.origin.passes[-1] for op in changed} == {paged_module.PASS_NAME}
