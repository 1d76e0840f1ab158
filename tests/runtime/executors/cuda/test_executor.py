"""The CUDA executor computes what the interpreter does; here its kernels are interpreted on the CPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from compiler.errors import EngineError, TargetError
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.packed_step import PackedStep, SequenceStep
from compiler.ir.paged import paged
from compiler.ir.rewrite import RewriteBuilder, sweep
from compiler.passes import run_pipeline
from compiler.store import write_ranks
from llmc.compiling.dry_pipeline import dry_pipeline
from llmc.pipeline import compose
from llmc.verification.tolerance import logits_tolerance
from runtime.executors.cuda.executor import CudaExecutor
from runtime.executors.interpreter import InterpreterExecutor
from tests.paged_schedules import (
    CAPACITY,
    Schedule,
    blocks_needed,
    largest_error,
    models,
    packed_logits,
    padded_logits,
    schedules,
)
from tests.passes.parallel.configs import Case, noise_model

CPU = torch.device("cpu")
FUSED = "merge-linears,fuse-attention,cleanup"
VOCAB = 48
EXACT = logits_tolerance("float32", 2)
SHORT = Schedule(((5, 1), (1, 3), (1, 1)), 16, 0)
SIZES = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 2, "rotary_dim": 8, "vocab_size": VOCAB, "n_positions": 64},
    "gpt_neox": {**SIZES, "intermediate_size": 96},
    "opt": {**SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 2, "vocab_size": VOCAB, "attn_config": {"alibi": True}},
}
RECIPES = ("", "quant=int8", "quant=int4:group=32", "quant=fp8:act=off", "kv=int8", "kv=fp8")


def stored(graph: Graph, folder: Path) -> Graph:
    """The graph, its weights in the folder."""
    return read_graph(folder / write_ranks(graph, folder)[0].graph_file)


def made(family: str, passes: str, folder: Path) -> Graph:
    """The graph of a random model of two layers in float32. What calibration would decide has placeholders."""
    model = noise_model({"model_type": family, **FAMILIES[family]})
    graph = dry_pipeline(model, compose(passes, None)).graph
    return stored(graph, folder)


def error(graph: Graph, schedule: Schedule, vocab: int = VOCAB) -> float:
    """How far the logits of the executor are from those of the interpreter."""
    graph = paged(graph, schedule.block)
    found, expected = (
        packed_logits(executor.open_paged(blocks_needed(schedule)), schedule, vocab)
        for executor in (CudaExecutor(graph, device=CPU), InterpreterExecutor(graph))
    )
    return largest_error(found, expected)


@pytest.mark.parametrize("passes", RECIPES)
def test_logits_are_those_of_the_interpreter_for_every_recipe(tmp_path: Path, passes: str) -> None:
    family = [*FAMILIES][RECIPES.index(passes) % 4]
    assert error(made(family, passes, tmp_path), SHORT) < EXACT


@pytest.mark.parametrize("family", ["gpt_neox", "opt", "mpt"])
def test_logits_are_those_of_the_interpreter_for_every_family(tmp_path: Path, family: str) -> None:
    assert error(made(family, "", tmp_path), SHORT) < EXACT


@settings(max_examples=6)
@given(models(), schedules())
def test_random_models_and_schedules(tmp_path_factory: pytest.TempPathFactory, case: Case, schedule: Schedule) -> None:
    """Any variant of a family: parallel and sequential residuals, shared heads, windows, norms without biases."""
    graph = run_pipeline(noise_model(case.config), FUSED).graph
    graph = paged(stored(graph, tmp_path_factory.mktemp("model")), schedule.block)
    assert error(graph, schedule, case.config["vocab_size"]) < EXACT


def test_all_that_a_layer_does_runs_in_few_calls(tmp_path: Path) -> None:
    executor = CudaExecutor(made("gptj", "", tmp_path), device=CPU)
    names = Counter(fusion.name for fusion in executor.fusions)
    assert names == {"attention": 2, "norm": 1, "sum and norm": 1, "sum and norm of rows": 1, "product": 3}
    left = [*executor.explain()][-1]
    assert not any(kind in left for kind in ("linear", "layer_norm", "paged", "gather_rows"))
    assert executor.captures


def test_both_norms_of_a_parallel_residual_are_one_call(tmp_path: Path) -> None:
    fusions = CudaExecutor(made("gpt_neox", "", tmp_path), device=CPU).fusions
    norms = [sum(op.kind.name == "layer_norm" for op in fusion.ops) for fusion in fusions if "norm" in fusion.name]
    assert sorted(norms) == [1, 2, 2]


@pytest.mark.parametrize("wanted", [[3], [0, 1, 2, 3], [2, 0, 3, 1], [0, 0, 1, 2, 3, 3]], ids=str)
def test_norms_are_of_the_tokens_whose_logits_are_wanted(tmp_path: Path, wanted: list[int]) -> None:
    graph = paged(made("gpt_neox", "", tmp_path), 16)
    step = PackedStep.of([SequenceStep(0, [1, 2, 3, 4], [0], wanted)])
    found, expected = (
        executor.open_paged(1).step(step) for executor in (CudaExecutor(graph, device=CPU), InterpreterExecutor(graph))
    )
    assert (found - expected).abs().max() < EXACT


def test_rows_of_a_linear_engine_run_on_blocks(tmp_path: Path) -> None:
    graph = made("gptj", "", tmp_path)
    found, expected = (
        padded_logits(executor.open(SHORT.sequences, CAPACITY), SHORT, VOCAB)
        for executor in (CudaExecutor(graph, device=CPU), InterpreterExecutor(graph))
    )
    assert largest_error(found, expected) < EXACT


def test_sums_of_more_than_a_kernel_adds_run_all_the_same(tmp_path: Path) -> None:
    """As a pass of a user's may make them."""

    def longer(op: Op, b: RewriteBuilder) -> Value | None:
        if op.name != "layers.0.after_mlp":
            return None
        total = b.add(*op.operands)
        for _ in range(6):
            total = b.add(total, op.operands[0])
        return total

    model = sweep(noise_model({"model_type": "gptj", **FAMILIES["gptj"]}), longer)
    assert error(stored(dry_pipeline(model, compose("", None)).graph, tmp_path), SHORT) < EXACT


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    def load(value: Value) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")

    with pytest.raises(
        TargetError, match=r"the weights do not fit into the memory of cpu: CUDA out of memory"
    ) as raised:
        CudaExecutor(made("gptj", "", tmp_path), device=CPU, load=load)
    assert "tp=2" in str(raised.value.hint)


def test_a_stage_has_no_linear_session(tmp_path: Path) -> None:
    executor = CudaExecutor(made("gptj", "", tmp_path), device=CPU)
    with pytest.raises(EngineError, match="paged"):
        executor.open_stage(1, 8)
