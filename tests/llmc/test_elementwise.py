"""Functions that act on every element alone, as ops with all the parts that a CPU needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import llmc
from compiler.ir.virtual_ranks import VirtualRanks
from llmc.inspection.op_facts import describe_op
from tests.registrations import forgotten
from tests.runtime.executors.torch.lowered import lowered


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with forgotten():

        @llmc.register_elementwise_op
        def lean(x: Tensor, bias: Tensor, *, slope: float, name: str = "none") -> Tensor:
            """`slope * x + bias`, whatever the name."""
            return slope * x + bias

        yield


GRAPH = """
graph test
dim B = 1..2..8
input x: f32[B,4]
input bias: f32[4]
.:
  %a: f32[B,4] = lean(%x, %bias, slope=2.0)
  %y: f32[B,4] = lean(%a, %bias, slope=3.0, name="other")
output y = %y
"""


def test_the_interpreter_and_torch_compute_it() -> None:
    graph, x, bias = llmc.parse(GRAPH), torch.randn(2, 4), torch.randn(4)
    expected = 3 * (2 * x + bias) + bias
    assert torch.equal(llmc.Interpreter(graph)({"x": x, "bias": bias})["y"], expected)
    assert torch.equal(lowered(graph).run(x, bias, writes=None)[0], expected)


def test_only_the_rule_for_tensorrt_is_left_to_write() -> None:
    parts = {part.name: part.place is not None for part in describe_op("lean").parts}
    assert [name for name, there in parts.items() if not there] == ["TensorRT rule", "TensorRT support"]


def test_tp_splits_it() -> None:
    model = llmc.lift("examples/models/opt-tiny", max_batch=2, max_seq=16)

    def shift(graph: llmc.Graph) -> llmc.Graph:
        def visit(op: llmc.Op, b: llmc.RewriteBuilder) -> llmc.Value | None:
            return b.lean(op.operands[0], op.operands[0], slope=0.5) if op.kind is llmc.ops.relu else None

        return llmc.sweep(graph, visit)

    whole, split = (llmc.optimize(model, [shift, rest]).graph for rest in ("dtype=float32", "dtype=float32,tp=2"))
    assert split.value("layers.0.mlp.act").type.shape[-1] == 256  # half of 512
    ids = {"token_ids": [[5, 6]], "past_len": [0], "new_len": [2], "logit_pos": [[1]]}
    inputs = {name: torch.tensor(values, dtype=torch.int32) for name, values in ids.items()}
    found = []
    for graph in (whole, split):
        ranks = VirtualRanks(graph)
        found.append(ranks(inputs, ranks.empty_states(1, 4))[0]["logits"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
