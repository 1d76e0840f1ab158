"""The executor computes what the interpreter does, in few calls, whatever is stored and however ops lie."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import llmc
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.paged import paged
from compiler.passes import run_pipeline
from compiler.store import write_ranks
from llmc.verification.tolerance import logits_tolerance
from runtime.executors.cpu.executor import CpuExecutor
from runtime.executors.cpu.explanation import explain
from runtime.executors.interpreter import InterpreterExecutor
from runtime.generation.tokenizer import Tokenizer
from tests.paged_schedules import (
    CAPACITY,
    MIXED,
    Schedule,
    blocks_needed,
    largest_error,
    models,
    packed_logits,
    padded_logits,
    schedules,
)
from tests.passes.parallel.configs import noise_model
from tests.paths import MODELS
from tests.runtime.quantized_engines import Oracle, quantized_graph

FUSED = "merge-linears,fuse-attention,cleanup"
VOCAB, BLOCK = 1024, 4
FAMILIES = ("gptneox", "gptj", "opt", "mpt")
TEXT = "The function returns a list of the names that are in use, or nothing if the file cannot be read."


def stored(graph: Graph, folder: Path) -> Graph:
    return read_graph(folder / write_ranks(graph, folder)[0].graph_file)


def lifted(family: str, passes: str) -> Graph:
    return llmc.optimize(llmc.lift(MODELS / f"{family}-tiny", max_batch=4, max_seq=32), passes).graph


def compare(graph: Graph, error: float, **options: Any) -> CpuExecutor:
    """See that packed steps, and steps of rows, differ from the interpreter's by no more than `error`."""
    packed = paged(graph, BLOCK)
    expected = packed_logits(InterpreterExecutor(packed).open_paged(blocks_needed(MIXED)), MIXED, VOCAB)
    executor = CpuExecutor(packed, **options)
    assert largest_error(packed_logits(executor.open_paged(blocks_needed(MIXED)), MIXED, VOCAB), expected) < error
    assert largest_error(padded_logits(executor.open(3, 32), MIXED, VOCAB), expected) < error
    return executor


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_step_runs_in_one_call(family: str, dtype: str, tmp_path: Path) -> None:
    executor = compare(stored(lifted(family, f"dtype={dtype},{FUSED}"), tmp_path), logits_tolerance(dtype, 4))
    left = [op.kind.name for op in executor.plans.running if op.name in executor.plans.reasons]
    assert left == ["reshape"]  # of the logits
    assert len(executor.plans.segments()) == 1
    pools = executor.open_paged(1).stage.pools
    assert {pool.dtype for pool in pools} == {getattr(torch, dtype)}


@settings(max_examples=25)
@given(models(), schedules())
def test_any_model_and_any_schedule(case: Any, schedule: Schedule) -> None:
    """Whose heads and rows have odd widths, with windows, ALiBi and heads that share keys."""
    with tempfile.TemporaryDirectory() as name:
        graph = paged(stored(run_pipeline(noise_model(case.config), FUSED).graph, Path(name)), schedule.block)
        vocab, blocks = int(graph.facts["vocab_size"]), blocks_needed(schedule)
        expected = packed_logits(InterpreterExecutor(graph).open_paged(blocks), schedule, vocab)
        executor = CpuExecutor(graph, threads=1 + schedule.seed % 3)
        exact = logits_tolerance("float32", 4)
        assert largest_error(packed_logits(executor.open_paged(blocks), schedule, vocab), expected) < exact
        rows = executor.open(schedule.sequences, CAPACITY)
        assert largest_error(padded_logits(rows, schedule, vocab), expected) < exact
        assert len(executor.plans.segments()) == 1


@pytest.mark.parametrize(
    ("family", "passes", "dtype"),
    [
        ("gptneox", "quant=int8", "float32"),
        ("gptj", "quant=int4:group=32", "float32"),
        ("opt", "quant=awq:group=32", "float32"),  # with zero points
        ("mpt", "quant=fp8:act=none", "float32"),
        ("gptneox", "quant=int8:act=token", "float32"),
        ("gptj", "quant=smoothquant:act=static,kv=int8", "float16"),
        ("opt", "kv=int8", "float32"),
        ("mpt", "quant=int4:group=32,kv=fp8:scale=tensor", "float32"),
    ],
)
def test_quantized_models_choose_the_tokens_that_the_interpreter_does(
    family: str, passes: str, dtype: str, tmp_path: Path
) -> None:
    model = MODELS / f"{family}-tiny"
    ids = Tokenizer(model / "tokenizer.json").encode(TEXT)
    linear = quantized_graph(model, passes, dtype)
    executor = CpuExecutor(stored(linear, tmp_path))
    agreement = Oracle(linear, dtype, [ids[:n] for n in (1, 3, 20)], 6).compare(executor)
    assert agreement.holds, agreement
    unserved = {"linear", "quantize", "dequantize", "paged_attention", "paged_kv_update"}
    assert not unserved & {op.kind.name for op in executor.plans.running if op.name in executor.plans.reasons}


def test_any_number_of_threads_computes_the_same(tmp_path: Path) -> None:
    graph = paged(stored(lifted("gptj", f"dtype=float32,{FUSED}"), tmp_path), BLOCK)

    def logits(threads: int) -> torch.Tensor:
        session = CpuExecutor(graph, threads=threads).open_paged(blocks_needed(MIXED))
        return torch.cat(packed_logits(session, MIXED, VOCAB))

    one = logits(1)
    for threads in (2, 3):
        torch.testing.assert_close(logits(threads), one, rtol=1e-4, atol=1e-4)


def test_what_has_no_kernel_runs_by_torch_between_calls(tmp_path: Path) -> None:
    """A softmax over the features of the first layer's activations: nothing a model does."""

    def visit(op: Any, builder: Any) -> Any:
        return builder.softmax(op.operands[0]) if op.name == "layers.0.mlp.act" else None

    graph = stored(llmc.sweep(lifted("gptj", f"dtype=float32,{FUSED}"), visit), tmp_path)
    executor = compare(graph, logits_tolerance("float32", 4))
    assert len(executor.plans.segments()) == 2
    explained = explain(paged(graph, BLOCK))
    assert next((each.kind, each.why) for each in explained.left) == (
        "softmax",
        "there is no kernel for such operations",
    )
    assert [*explained.lines()][-2].startswith("by torch: 1 x softmax (layers.0.mlp.act): there is no kernel")


def test_pieces_of_rows_pass_between_calls_and_torch(tmp_path: Path) -> None:
    """A part of a product goes to torch heads first, and what torch gives comes back in that form."""

    def visit(op: Any, builder: Any) -> Any:
        if op.kind.name != "transpose" or not op.name.endswith("attn.k.heads"):
            return None
        heads = builder.emit(op.kind, op.operands, op.attrs, ["plain"])[0]
        return builder.softmax(heads)

    graph = stored(llmc.sweep(lifted("opt", f"dtype=float32,{FUSED}"), visit), tmp_path)
    executor = compare(graph, logits_tolerance("float32", 4))
    assert len(executor.plans.segments()) == 5
