from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange
from compiler.ir.printer import print_graph
from compiler.ir.specialize import bind_dims
from compiler.ir.verifier import verify


def test_a_bound_symbol_is_gone_from_types_attributes_and_dims():
    b = Builder("g")
    b.dims = {"B": DimRange(1, 2, 4), "C": DimRange(1, 8, 16)}
    x = b.input("x", DType.f32, symbol("B"), 2 * symbol("C") + 1)
    b.output("y", b.slice(x, axis=1, start=symbol("C"), size=symbol("C") + 1))
    bound = bind_dims(b.build(), {"C": 16})
    verify(bound)
    assert "C" not in bound.dims
    assert str(bound.inputs[0].type) == "f32[B,33]"
    assert str(bound.outputs["y"].type) == "f32[B,17]"
    assert "start=16" in print_graph(bound)


def test_nothing_to_bind_changes_nothing():
    b = Builder("g")
    b.output("y", b.relu(b.input("x", DType.f32, 3)))
    graph = b.build()
    assert bind_dims(graph, {}) is graph
