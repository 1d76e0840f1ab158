"""Functions of tensors as ops on weights: their types, their values, and where they are computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmc
from compiler.ir.constants import stream_constants
from tests.passes.checks import graph_of
from tests.registrations import forgotten


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with forgotten():

        @llmc.register_weight_op
        def halves(weight: Tensor, *, at: int = 2) -> tuple[Tensor, Tensor]:
            """The rows before a place, and how many of each column are positive."""
            return weight[:at], (weight[at:] > 0).sum(0, dtype=torch.int32)

        yield


GRAPH = """
    input x: f16[B,4]
    .:
      %w: f16[3,4] = random(key="w", dtype=f16, shape=[3,4])
      %rows: f16[2,4], %counts: i32[4] = halves(%w)
      %y: f16[B,2] = linear(%x, %rows)
    output y = %y
    output counts = %counts
    """


def test_types_follow_from_the_function() -> None:
    graph = graph_of(GRAPH)
    assert llmc.ops.halves.doc.startswith("The rows before a place")
    assert (llmc.ops.halves.operands, dict(llmc.ops.halves.defaults)) == (("weight",), {"at": 2})
    [op] = graph.find(llmc.ops.halves)
    assert [str(value.type) for value in op.results] == ["f16[2,4]", "i32[4]"]


def test_it_is_computed_when_weights_are_written() -> None:
    stored = {value.name: tensor for value, tensor in stream_constants(graph_of(GRAPH))}
    assert stored.keys() == {"rows", "counts"}
    weight = llmc.Interpreter(graph_of(GRAPH.replace("output counts = %counts", "output counts = %w")))
    given = weight({"x": torch.zeros(1, 4, dtype=torch.float16)})["counts"]
    assert torch.equal(stored["rows"], given[:2])
    assert torch.equal(stored["counts"], (given[2:] > 0).sum(0, dtype=torch.int32))


def test_what_has_no_fixed_shape_is_no_weight() -> None:
    with pytest.raises(llmc.GraphError, match="halves computes weights, whose shapes have no symbols"):
        graph_of(GRAPH.replace("halves(%w)", "halves(%x)"))


def test_a_mistake_in_the_function_is_named_with_its_line() -> None:
    @llmc.register_weight_op
    def wrong(weight: Tensor) -> Tensor:
        return weight @ weight

    with pytest.raises(llmc.LlmcError, match=r"wrong\(f16\[3,4\]\).* fails: .*tests/ir/test_weight_op\.py, line \d+"):
        graph_of(GRAPH.replace("%rows: f16[2,4], %counts: i32[4] = halves", "%rows: f16[3,4] = wrong"))


def test_an_engine_has_the_results_and_needs_no_plugin(tmp_path: Path) -> None:
    model = Path("examples/models/opt-tiny").absolute()
    with forgotten():

        @llmc.register_weight_op
        def negated(weight: Tensor) -> Tensor:
            return -weight

        def negate(graph: llmc.Graph) -> llmc.Graph:
            def visit(op: llmc.Op, b: llmc.RewriteBuilder) -> llmc.Value | None:
                if op.name != "layers.0.mlp.down":
                    return None
                x, weight, *bias = op.operands
                return b.linear(b.scale(x, factor=-1.0), b.negated(weight), *bias)

            return llmc.sweep(graph, visit)

        options = {"target": "torch", "dtype": "float32", "max_batch": 1, "max_seq": 16}
        made = llmc.compile(model, tmp_path / "made", passes=[negate], **options)  # type: ignore[arg-type]
    assert [use.ops for use in made.manifest.plugins] in ([], [()])
    found = llmc.load(made.path, executor="torch", device="cpu").logits([5, 6, 7])
    whole = llmc.compile(model, tmp_path / "whole", **options)  # type: ignore[arg-type]
    expected = llmc.load(whole.path, executor="torch", device="cpu").logits([5, 6, 7])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
