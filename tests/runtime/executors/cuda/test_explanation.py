"""What is said of how the executor runs a graph is what it does, and why."""

from __future__ import annotations

from pathlib import Path

import torch

from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value
from compiler.ir.rewrite import RewriteBuilder, sweep
from runtime.executors.cuda.executor import CudaExecutor, paged_graph
from runtime.executors.cuda.explanation import explain
from tests.runtime.executors.cuda.test_executor import made


def scaled_context(graph: Graph) -> Graph:
    """The first layer's context is scaled before its heads are laid out, as no fusion has it."""

    def visit(op: Op, b: RewriteBuilder) -> Value | None:
        if op.kind.name != "paged_attention" or not op.name.startswith("layers.0."):
            return None
        again = b.again(op)
        assert isinstance(again, Value)
        return b.scale(again, factor=1.0)

    return sweep(graph, visit)


def test_what_is_said_of_a_graph_is_what_the_executor_does(tmp_path: Path) -> None:
    graph = made("gptj", "", tmp_path)
    executor = CudaExecutor(graph, device=torch.device("cpu"))
    explained = explain(paged_graph(graph))
    assert [*executor.explain()] == [*explained.lines()]
    assert {each.name: each.count for each in explained.fused}["attention"] == 2
    assert explained.captures and explained.to_json()["captures"]
    assert "steps are captured as CUDA graphs" in explained.lines()


def test_weights_without_a_kernel_are_named_with_the_reason(tmp_path: Path) -> None:
    explained = explain(paged_graph(made("opt", "quant=int8:group=8", tmp_path)))
    (left,) = (each for each in explained.plain if each.kind == "linear")
    assert left.why == "8 columns share a scale, which is no multiple of 32"
    assert len(left.ops) == 8 and "layers.0.mlp.up" in left.ops
    assert any(left.why in line and left.ops[0] in line for line in explained.lines())


def test_an_attention_of_another_form_is_named_and_keeps_steps_from_being_captured(tmp_path: Path) -> None:
    explained = explain(scaled_context(paged_graph(made("gptj", "", tmp_path))))
    reasons = {each.kind: each.why for each in explained.plain}
    assert reasons["paged_attention"].startswith("its context is not laid out as rows of heads")
    assert reasons["paged_kv_update"] == "the attention over what it writes runs by itself"
    assert not explained.captures
    assert [*explained.lines()][-1].startswith("steps are not captured: paged_")


def test_what_ranks_exchange_is_said_of_a_shard(tmp_path: Path) -> None:
    explained = explain(paged_graph(made("gpt_neox", "tp=2", tmp_path)))
    reasons = {each.kind: each.why for each in explained.plain}
    assert reasons["all_reduce"].startswith("ranks exchange it")
