"""The rules of a graph, each broken once."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import GraphError
from compiler.ir.dtypes import DType
from compiler.ir.frozen import FrozenDict
from compiler.ir.graph import DimRange, Graph
from compiler.ir.op import Op, Origin, Value
from compiler.ir.parser import parse_graph
from compiler.ir.types import TensorType, parse_type
from compiler.ir.verifier import verify
from tests.strategies import graphs

GRAPH = parse_graph("""
    graph g
    dim B = 1..2..4
    input x: f16[B,4]
    input cache: f16[B,8]

    h.0 from layers.0:
      %.a: f16[B,4] = relu(%x)
      %.b: f16[B,1], %.c: f16[B,3] = split(%.a, axis=1, sizes=[1,3])  !dtype

    output y = %h.0.c
    output cache = %cache
""")
A, SPLIT = GRAPH.ops
RELU = "relu %h.0.a from layers.0"


def with_ops(*ops: Op) -> Graph:
    return replace(GRAPH, ops=ops)


def value(name: str, type_: str) -> Value:
    return Value(name, parse_type(type_))


BROKEN = {
    "the input %x is declared twice": replace(GRAPH, inputs=GRAPH.inputs * 2),
    f"{RELU} uses %x as f32[B,4], but it is f16[B,4]": with_ops(
        replace(A, operands=(value("x", "f32[B,4]"),), results=(value("h.0.a", "f32[B,4]"),)), SPLIT
    ),
    "split %h.0.b from layers.0 (changed by dtype) uses %h.0.a before it is defined": with_ops(SPLIT, A),
    "split %h.0.b from layers.0 (changed by dtype) uses %h.0.a, which nothing defines": with_ops(SPLIT),
    f"{RELU} says that %h.0.a is f16[B,5]; its rule gives f16[B,4]": with_ops(
        replace(A, results=(value("h.0.a", "f16[B,5]"),)), SPLIT
    ),
    f"{RELU} defines %h.0.a a second time": with_ops(A, A, SPLIT),
    "relu %x from layers.0 defines %x a second time": with_ops(replace(A, results=(value("x", "f16[B,4]"),)), SPLIT),
    f"{RELU} has 2 results; its rule gives 1": with_ops(replace(A, results=(A.result, value("z", "f16[B,4]"))), SPLIT),
    "the output 'y' is %z, which nothing defines with type f16[B,4]": replace(
        GRAPH, outputs=FrozenDict({"y": value("z", "f16[B,4]")})
    ),
    "the output 'y' is %h.0.a, which nothing defines with type f32[B,4]": replace(
        GRAPH, outputs=FrozenDict({"y": value("h.0.a", "f32[B,4]")})
    ),
    "the cache %cache is f16[B,8] but its next state is f16[B,4]": replace(
        GRAPH, outputs=FrozenDict({"cache": A.result})
    ),
    "the symbolic dim B has no range": replace(GRAPH, dims=FrozenDict({"S": DimRange(1, 1, 1)})),
    "the range of B is (2, 1, 4); it must be min <= opt <= max": replace(
        GRAPH, dims=FrozenDict({"B": DimRange(2, 1, 4)})
    ),
    "the range of B is (-1, 1, 4); it must be min <= opt <= max": replace(
        GRAPH, dims=FrozenDict({"B": DimRange(-1, 1, 4)})
    ),
}


def test_a_good_graph_passes():
    verify(GRAPH)


@pytest.mark.parametrize("message", BROKEN)
def test_each_rule_is_checked(message):
    with pytest.raises(GraphError) as caught:
        verify(BROKEN[message])
    assert caught.value.message == message


def test_an_op_that_breaks_its_own_rule_is_named():
    operand = value("h.0.i", "i32[4]")
    iota = replace(
        A, kind=parse_graph("graph g\n%i: i32[4] = iota(size=4)").ops[0].kind, operands=(), results=(operand,)
    )
    iota = replace(iota, attrs=FrozenDict({"size": 4, "dtype": DType.i32}))
    with pytest.raises(GraphError) as caught:
        verify(replace(GRAPH, ops=(iota, replace(A, operands=(operand,)))))
    assert caught.value.message == f"{RELU} breaks its rule: relu(i32[4]): needs a floating-point tensor, not i32"


def test_a_missing_range_has_a_hint():
    with pytest.raises(GraphError) as caught:
        verify(replace(GRAPH, dims=FrozenDict()))
    assert caught.value.hint == "add it to Graph.dims: B = (min, opt, max)"


@given(graphs(max_ops=6), st.data())
def test_a_wrong_type_is_noticed_wherever_it_is(graph, data):
    if not graph.ops:
        return
    at = data.draw(st.integers(0, len(graph.ops) - 1))
    op = graph.ops[at]
    wrong = Value(op.name, TensorType(DType.u8, (7,)))
    bad = replace(op, results=(wrong, *op.results[1:]), origin=Origin("somewhere"))
    with pytest.raises(GraphError, match=r"from somewhere says that .* is u8\[7\]; its rule gives"):
        verify(replace(graph, ops=(*graph.ops[:at], bad, *graph.ops[at + 1 :])))
