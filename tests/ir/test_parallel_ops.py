"""The ops of several ranks: their types, their text, and that one rank alone does not pretend to compute them."""

import pytest
import torch

from compiler.errors import GraphError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.interpreter import Interpreter
from compiler.ir.parser import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.trace import Trace
from compiler.ir.types import TensorType, parse_type


def built(kind, x="f32[B,6]", **attrs):
    b = Builder()
    b.dims["B"] = DimRange(1, 2, 4)
    type_ = parse_type(x)
    value = b.input("x", type_.dtype, *type_.shape)
    b.output("y", getattr(b, kind)(value, **attrs))
    return b.build()


@pytest.mark.parametrize(
    ("kind", "attrs", "result"),
    [
        ("shard", {"axis": -1, "parts": 3}, "f32[B,2]"),
        ("shard", {"axis": 1, "parts": 2, "each": 4}, "f32[B,3]"),
        ("all_reduce", {"parts": 2}, "f32[B,6]"),
        ("all_max", {"parts": 2}, "f32[B,6]"),
        ("all_gather", {"axis": -1, "parts": 4}, "f32[B,24]"),
        ("all_gather", {"axis": 0, "parts": 2}, "f32[2*B,6]"),
        ("transfer", {"stage": 1}, "f32[B,6]"),
    ],
)
def test_types_and_text(kind, attrs, result):
    graph = built(kind, **attrs)
    assert str(graph.outputs["y"].type) == result
    assert parse_graph(print_graph(graph)) == graph


@pytest.mark.parametrize(
    ("kind", "x", "attrs", "message"),
    [
        ("shard", "f32[B,6]", {"axis": 1, "parts": 4}, "4 shards of axis 1 of size 6 would not be equal"),
        ("shard", "f32[B,6]", {"axis": 0, "parts": 2}, "2 shards of axis 0 of size B would not be equal"),
        ("shard", "f32[B,6]", {"axis": 2, "parts": 2}, "axis 2 is outside a tensor of 2 dimensions"),
        ("shard", "f32[B,6]", {"axis": 1, "parts": 2, "each": 0}, "each is 0; it must be at least 1"),
        ("all_reduce", "bool[B,6]", {"parts": 2}, "a sum of bools; cast first"),
        ("all_max", "bool[B,6]", {"parts": 2}, "the largest of bools; cast first"),
        ("all_gather", "f32[B,6]", {"axis": 0, "parts": 0}, "parts is 0; it must be at least 1"),
        ("transfer", "f32[B,6]", {"stage": 0}, "stage 0 is no later stage than the first"),
    ],
)
def test_refused(kind, x, attrs, message):
    with pytest.raises(GraphError) as error:
        built(kind, x, **attrs)
    assert error.value.message == f"{kind}({parse_type(x)}): {message}"


def test_a_shard_has_no_value_without_a_rank():
    with pytest.raises(GraphError) as error:
        Interpreter(built("shard", axis=1, parts=2))({"x": torch.zeros(2, 6)})
    assert error.value.message == "which slice a shard is depends on the rank"
    assert "rank_graph" in str(error.value.hint)


def test_a_collective_needs_the_others():
    with pytest.raises(GraphError) as error:
        Interpreter(built("all_reduce", parts=2))({"x": torch.zeros(2, 6)})
    assert error.value.message == "all_reduce %all_reduce from the graph is for 2 ranks; 1 take part"


def test_collectives_of_one_rank_change_nothing():
    x = torch.randn(2, 6)
    for graph in (
        built("all_reduce", parts=1),
        built("all_max", parts=1),
        built("all_gather", axis=1, parts=1),
        built("transfer", stage=1),
    ):
        assert torch.equal(Interpreter(graph)({"x": x})["y"], x)


def test_ranks_communicate_as_they_are_told():
    graph = built("all_reduce", "f16[B,6]", parts=2)
    seen = []

    def communicate(op, operand):
        seen.append((op.name, operand.dtype))
        return operand + operand

    x = torch.randn(2, 6).half()
    found = Interpreter(graph, communicate=communicate)({"x": x})["y"]
    assert torch.equal(found, x + x)
    assert seen == [("all_reduce", torch.float32)]  # added up in float32, rounded once
    assert found.dtype is torch.float16


def test_a_pass_can_say_something_about_its_result():
    trace = Trace()
    trace.rule("first", "rule").apply(built("all_reduce", parts=2).ops[0])
    trace.note("second", "a step takes 3 all_reduce")
    trace.note("first", "done")
    assert trace.text() == "first\n  rule: met no op\n  done\nsecond\n  a step takes 3 all_reduce\n"


def test_symbolic_axes_are_gathered():
    b = Builder()
    b.dims["S"] = DimRange(1, 2, 4)
    gathered = b.all_gather(b.input("x", DType.f32, symbol("S") * 2 + 1), axis=0, parts=3)
    assert gathered.type == TensorType(DType.f32, (symbol("S") * 6 + 3,))
