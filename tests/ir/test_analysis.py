"""Facts of graphs that are computed once and kept."""

import pytest

from compiler.ir.analysis import constant_values, packed_weights, stored_values
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType


def quantized() -> Graph:
    """A product with a weight that is stored in 8 bits."""
    b = Builder()
    x = b.input("x", DType.f32, 2, 4)
    q = b.const(data=TensorRef(TensorType(DType.i8, (3, 4)), "q", "weights.bin", 0), name="q")
    scale = b.random(key="s", dtype=DType.f32, shape=(1, 1), name="scale")
    weight = b.dequantize(q, scale, dtype=DType.f32, name="weight")
    b.output("y", b.linear(x, weight, name="y"))
    return b.build()


def test_a_dequantized_weight_is_constant_but_not_stored():
    graph = quantized()
    assert constant_values(graph) == {"q", "scale", "weight"}
    assert stored_values(graph) == {"q", "scale"}
    assert packed_weights(graph) == {"weight": graph.producers["weight"]}


@pytest.mark.parametrize("fact", [constant_values, stored_values, packed_weights])
def test_what_was_computed_of_a_graph_is_kept_with_it_alone(fact):
    graph = quantized()
    assert fact(graph) is fact(graph)
    without_scale = graph.with_ops(graph.ops[:1], {})
    assert fact(without_scale) != fact(graph)
    assert graph == quantized()  # what is kept is no part of the graph


def test_what_is_kept_cannot_be_changed():
    graph = quantized()
    with pytest.raises(AttributeError):
        stored_values(graph).add("x")  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="frozen"):
        packed_weights(graph)["x"] = graph.ops[0]  # type: ignore[index]
