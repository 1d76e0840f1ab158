"""Building graphs."""

import inspect

import pytest
from hypothesis import given

from compiler.errors import GraphError
from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.graph import DimRange, Graph
from compiler.ir.op import OPS, Origin, Value, op_kind
from compiler.ir.types import TensorType
from compiler.ir.verifier import verify
from tests.strategies import graphs


def names(graph: Graph) -> list[str]:
    return [value.name for op in graph.ops for value in op.results]


def test_ops_are_methods_with_operands_first():
    b = Builder("g")
    x = b.input("x", DType.f16, symbol("B"), 4)
    y = b.linear(x, b.random(key="w", dtype=DType.f16, shape=(8, 4)), None, name="y")
    assert y == Value("y", TensorType(DType.f16, (symbol("B"), 8)))
    graph = b.build("root")
    assert [op.kind.name for op in graph.ops] == ["random", "linear"]
    assert graph.ops[1].operands == (x, graph.ops[0].result)
    assert (graph.name, graph.inputs, graph.root) == ("g", (x,), "root")


def test_names_are_local_to_the_scope_and_get_a_suffix_when_taken():
    b = Builder()
    x = b.input("x", DType.f16, 4)
    with b.scope("h.0"):
        b.relu(x)
        b.relu(x)
        b.relu(x, name="x")
        with b.scope("mlp"):
            b.relu(x)
            b.split(x, axis=0, sizes=(2, 2), names=("a", "a"))
    b.relu(x, name="x")
    b.relu(x, name="x")
    assert names(b.build()) == [
        "h.0.relu",
        "h.0.relu_2",
        "h.0.x",
        "h.0.mlp.relu",
        "h.0.mlp.a",
        "h.0.mlp.a_2",
        "x_2",
        "x_3",
    ]


def test_scopes_set_the_module_and_end_after_an_error():
    b = Builder()
    x = b.input("x", DType.f16, 4)
    with b.scope("a", "layers.0"):
        with b.scope("b"):
            b.relu(x)
        with pytest.raises(GraphError), b.scope("c", "layers.0.mlp"):
            b.op("cast", x)
        b.relu(x)
    b.relu(x)
    graph = b.build()
    assert names(graph) == ["a.b.relu", "a.relu", "relu"]
    assert [op.origin for op in graph.ops] == [Origin("layers.0"), Origin("layers.0"), Origin()]


def test_results_are_a_value_or_a_tuple_if_names_are_given():
    b = Builder()
    x = b.input("x", DType.f16, 4)
    assert b.split(x, axis=0, sizes=(1, 3), names=("p", "q"))[1].type.shape == (3,)
    assert b.op("relu", x, names=("only",)) == (Value("only", x.type),)
    with pytest.raises(GraphError, match=r"^split has 2 results but 1 names: r$"):
        b.op("split", x, axis=0, sizes=(1, 3), name="r")


def test_an_op_is_appended_by_the_name_of_its_kind_or_by_the_kind():
    b = Builder()
    x = b.input("x", DType.f16, 4)
    left, right = b.op("split", x, axis=0, sizes=[1, 3], names=("left", "right"))
    assert b.op(op_kind("concat"), right, left, axis=0, name="joined").type == x.type
    assert names(b.build()) == ["left", "right", "joined"]
    with pytest.raises(GraphError, match=r"^there is no op 'rlu'; did you mean 'relu'\?"):
        b.op("rlu", x)


def test_an_op_is_emitted_again_from_its_parts():
    b = Builder()
    b.split(b.input("x", DType.f16, 4), axis=0, sizes=(1, 3), names=("a", "b"))
    (op,) = b.ops
    again = b.emit(op.kind, op.operands, op.attrs, ("a", "c"))
    assert [value.name for value in again] == ["a_2", "c"]
    assert b.ops[1].attrs == op.attrs
    with pytest.raises(GraphError, match=r"^split has 2 results but 1 names: split$"):
        b.emit(op.kind, op.operands, op.attrs)


def test_methods_are_listed_and_show_what_their_ops_mean():
    b = Builder()
    assert set(OPS) <= set(dir(b))
    assert b.gelu.__doc__ == op_kind("gelu").doc
    assert list(inspect.signature(b.gelu).parameters) == ["x", "tanh"]


def test_errors():
    b = Builder()
    x = b.input("x", DType.f16, 4)
    with pytest.raises(GraphError, match=r"^the input %x is declared twice$"):
        b.input("x", DType.f16)
    with pytest.raises(GraphError, match=r"^layer_norm: an operand is None but a later one is not$"):
        b.layer_norm(x, None, x)
    with pytest.raises(GraphError, match=r"^there is no op 'rlu'; did you mean 'relu'\?"):
        b.rlu(x)
    with pytest.raises(AttributeError):
        _ = b._private
    assert b.build().ops == ()


def test_what_is_built_does_not_change_with_the_builder():
    b = Builder()
    x = b.input("x", DType.f16, symbol("B"))
    b.dims["B"] = DimRange(1, 2, 4)
    b.output("y", x)
    graph = b.build()
    b.dims["S"] = DimRange(1, 1, 1)
    b.output("z", b.relu(x))
    b.facts["a"] = 1
    assert (graph.ops, dict(graph.outputs), dict(graph.dims), dict(graph.facts)) == (
        (),
        {"y": x},
        {"B": DimRange(1, 2, 4)},
        {},
    )


def test_indexes_of_a_graph():
    b = Builder()
    x = b.input("x", DType.f16, 4)
    left, right = b.split(x, axis=0, sizes=(2, 2), names=("left", "right"))
    doubled = b.add(left, left, name="doubled")
    b.output("x", x)
    b.output("y", doubled)
    graph = b.build()
    split, add = graph.ops
    assert graph.producers == {"left": split, "right": split, "doubled": add}
    assert graph.users == {"x": (split,), "left": (add,)}
    assert list(graph.values) == ["x", "left", "right", "doubled"]
    assert graph.states() == {"x": (x, x)}
    assert list(graph.find("add")) == [add]
    assert graph.value("right") == right
    with pytest.raises(GraphError, match=r"^the graph has no value %rihgt; did you mean 'right'\?$"):
        graph.value("rihgt")


@given(graphs(max_ops=10))
def test_random_graphs_are_well_formed(graph):
    verify(graph)
