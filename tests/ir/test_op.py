"""Values, kinds of operation and ops."""

from collections.abc import Iterator

import pytest

import compiler.ir.ops  # noqa: F401 - registers the ops
from compiler.errors import GraphError
from compiler.ir.dims import Dim, symbol
from compiler.ir.dtypes import DType
from compiler.ir.frozen import EMPTY, FrozenDict
from compiler.ir.op import (
    NO_ORIGIN,
    OpKind,
    Origin,
    Value,
    make_op,
    op,
    op_kind,
    with_operands,
)
from compiler.ir.types import TensorType
from tests.registrations import forgotten

X = Value("h.0.x", TensorType(DType.f16, (symbol("B"), 4)))
Y = Value("y", TensorType(DType.f32, (symbol("B"), 4)))
COUNTS = Value("counts", TensorType(DType.i32, (2,)))


@pytest.fixture
def plugin() -> Iterator[OpKind]:
    """A kind of a plug-in, with operands and attributes of every form; gone after the test."""
    with forgotten():

        @op
        def blend_(
            a: TensorType,
            b: TensorType | None = None,
            *more: TensorType,
            axis: int,
            sizes: tuple[Dim, ...] = (),
            tag: str = "t",
        ) -> TensorType:
            """What it means."""
            return a

        yield blend_


def test_a_signature_is_the_schema(plugin: OpKind):
    assert (plugin.name, plugin.doc, repr(plugin)) == ("blend", "What it means.", "blend")
    assert (plugin.operands, plugin.required, plugin.variadic) == (("a", "b"), 1, True)
    assert plugin.attributes == {"axis": int, "sizes": tuple[Dim, ...], "tag": str}
    assert plugin.defaults == {"sizes": (), "tag": "t"}


def test_kinds_are_found_by_name():
    assert op_kind("slice").rule.__name__ == "slice_"


def test_an_unknown_kind():
    with pytest.raises(GraphError) as caught:
        op_kind("linaer")
    assert str(caught.value) == (
        "there is no op 'linaer'; did you mean 'linear'?\n"
        "hint: an op of your own must be imported before a graph uses it (on the command line: --plugin FILE.py)"
    )


def test_a_kind_of_another_module_cannot_take_a_name():
    def linear(x: TensorType) -> TensorType:
        return x

    with pytest.raises(GraphError, match=r"^the op 'linear' exists already, in compiler\.ir\.ops\.nn, line \d+;"):
        op(linear)
    assert op_kind("linear").operands == ("x", "weight", "bias")


def test_attributes_are_completed_in_the_order_of_the_schema(plugin: OpKind):
    attrs = plugin.attrs({"tag": "u", "axis": 1, "sizes": [2, symbol("B")]})  # type: ignore[dict-item]
    assert list(attrs.items()) == [("axis", 1), ("sizes", (2, symbol("B"))), ("tag", "u")]
    assert plugin.attrs({"axis": 0}) == {"axis": 0, "sizes": (), "tag": "t"}
    assert op_kind("add").attrs({}) is EMPTY


@pytest.mark.parametrize(
    ("kind", "operands", "attrs", "names", "message"),
    [
        ("relu", [X], {"slope": 1}, ["r"], "relu has no attribute 'slope'; it has: none"),
        ("cast", [X], {"dtpye": DType.f16}, ["r"], "cast has no attribute 'dtpye'; it has: dtype"),
        ("cast", [X], {}, ["r"], "cast needs the attribute 'dtype'"),
        ("add", [X], {}, ["r"], "add takes (a, b) but was given 1 operands"),
        ("relu", [X, X], {}, ["r"], "relu takes (x) but was given 2 operands"),
        ("concat", [], {"axis": 0}, ["r"], "concat takes (x, ...) but was given 0 operands"),
        ("add", [X, Y], {}, ["r"], "add(f16[B,4], f32[B,4]): operands have different element types: f16 and f32"),
        ("relu", [COUNTS], {}, ["r"], "relu(i32[2]): needs a floating-point tensor, not i32"),
        ("relu", [X], {}, ["r", "s"], "relu has 1 results but 2 names: r, s"),
        ("split", [X], {"axis": 1, "sizes": (1, 2)}, ["r", "s"], "split(f16[B,4]): sizes [1, 2] do not add up to 4"),
    ],
)
def test_what_breaks_a_rule_is_refused(kind, operands, attrs, names, message):
    with pytest.raises(GraphError) as caught:
        make_op(op_kind(kind), operands, attrs, tuple(names))
    assert caught.value.message == message


def test_an_op_is_made_with_inferred_types():
    made = make_op(op_kind("split"), [X], {"axis": -1, "sizes": (1, 3)}, ("h.0.a", "h.0.b"), Origin("m"))
    assert [str(value) for value in made.results] == ["%h.0.a: f16[B,1]", "%h.0.b: f16[B,3]"]
    assert (made.name, made.scope, made.origin) == ("h.0.a", "h.0", Origin("m"))
    assert made.attrs == {"axis": -1, "sizes": (1, 3)}
    with pytest.raises(GraphError, match=r"^split %h\.0\.a has 2 results, not one$"):
        _ = made.result
    assert make_op(op_kind("relu"), [X], {}, ("top",)).scope == ""


def test_new_operands_give_new_types_and_share_what_stays():
    made = make_op(op_kind("relu"), [X], {}, ("r",))
    assert with_operands(made, (X,)) is made
    renamed = with_operands(made, (Value("z", X.type),))
    assert renamed.results is made.results
    wider = with_operands(made, (Y,))
    assert (wider.result.name, wider.result.type, wider.origin) == ("r", Y.type, NO_ORIGIN)
    with pytest.raises(GraphError, match=r"^relu\(i32\[2\]\): needs a floating-point tensor, not i32$"):
        with_operands(made, (Value("i", TensorType(DType.i32, (2,))),))


def test_types_are_inferred_once_for_the_same_operands():
    calls = []

    def rule(x: TensorType) -> TensorType:
        calls.append(x)
        return x

    kind = OpKind("counted", rule, ("x",), 1, False, {}, {})
    for _ in range(3):
        assert kind.infer((X.type,), EMPTY) == (X.type,)
    kind.infer((Y.type,), EMPTY)
    assert calls == [X.type, Y.type]


def test_origins_name_each_pass_once_in_a_row():
    origin = Origin("gpt_neox.layers.0").touched_by("dtype").touched_by("dtype").touched_by("tp").touched_by("dtype")
    assert origin.passes == ("dtype", "tp", "dtype")
    assert str(origin) == "gpt_neox.layers.0 (changed by dtype, tp, dtype)"
    assert str(NO_ORIGIN) == "the graph"


def test_frozen_mappings_cannot_change():
    mapping = FrozenDict({"a": 1})
    with pytest.raises(TypeError, match="this mapping is frozen"):
        mapping["a"] = 2
    with pytest.raises(TypeError, match="this mapping is frozen"):
        mapping.update(b=1)
    assert hash(mapping) == hash(FrozenDict(a=1))
    assert mapping == {"a": 1}
