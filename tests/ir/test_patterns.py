"""What patterns match, what they bind, and how far a failed match came."""

from __future__ import annotations

import pytest

from compiler.errors import GraphError
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.matching import Match, Miss
from compiler.ir.patterns import P, Pattern
from compiler.ir.rewrite import RewriteBuilder


def attention() -> Graph:
    """`softmax(q k * 0.5 + bias) v`, beside a constant and ops with several operands and results."""
    b = Builder()
    q, k, v = (b.input(name, DType.f32, 2, 4, 4) for name in "qkv")
    weight = b.random(key="w", dtype=DType.f32, shape=(4, 4), name="weight")
    turned = b.transpose(weight, perm=(1, 0), name="turned")
    scores = b.matmul(q, k, transpose_b=True, name="scores")
    scaled = b.scale(scores, factor=0.5, name="scaled")
    biased = b.add(turned, scaled, name="biased")
    probs = b.softmax(biased, name="probs")
    b.output("context", b.matmul(probs, v, name="context"))
    left, right = b.split(v, axis=-1, sizes=(2, 2), names=("left", "right"))
    b.output("joined", b.concat(left, right, left, axis=-1, name="joined"))
    b.output("out", b.linear(v, weight, name="out"))
    b.output("square", b.mul(q, q, name="square"))
    return b.build()


GRAPH = attention()


def source_of(graph: Graph) -> RewriteBuilder:
    source = RewriteBuilder(graph, "")
    source.ops.extend(graph.ops)
    return source


def matches(graph: Graph, pattern: Pattern) -> list[Match]:
    """Every match, in the order of the roots."""
    source = source_of(graph)
    found = (pattern.match(op, source) for op in graph.ops if op.kind.name in pattern.kinds)
    return [match for match in found if isinstance(match, Match)]


def one(pattern: Pattern) -> Match:
    (match,) = matches(GRAPH, pattern)
    return match


def miss(pattern: Pattern, root: str) -> Miss:
    found = pattern.match(GRAPH.producers[root], source_of(GRAPH))
    assert isinstance(found, Miss)
    return found


def test_names_bind_values() -> None:
    match = one(P.matmul(P.softmax("scores"), "v", transpose_b=False))
    assert match.root.name == "context"
    assert (match["scores"].name, match["v"].name) == ("biased", "v")
    assert [op.name for op in match.matched] == ["context", "probs"]


def test_a_repeated_name_must_be_the_same_value() -> None:
    assert one(P.mul("x", "x"))["x"].name == "q"
    assert miss(P.matmul(P.softmax("x"), "x"), "context") == Miss(2, "'x' is %biased already, not %v", close=True)


def test_attributes_by_value_or_by_function() -> None:
    assert one(P.scale("x", factor=0.5)).root.name == "scaled"
    assert one(P.scale("x", factor=lambda factor: factor < 1)).root.name == "scaled"
    assert miss(P.softmax(P.add(P.scale("x", factor=2.0), "b")), "probs").reason == (
        "expected scale, found transpose %turned"
    )
    assert miss(P.scale("x", factor=2.0), "scaled") == Miss(0, "scale %scaled has factor=0.5, not 2.0", close=True)
    assert miss(P.scale("x", factor=lambda factor: factor > 1), "scaled") == Miss(
        0, "scale %scaled has factor=0.5", close=True
    )


def test_bind_captures_ops_and_values() -> None:
    match = one(P.softmax(P.add(P.scale("s").bind("scaling"), "bias")).bind("top"))
    assert match.op("scaling").attrs["factor"] == match.attr("factor", of="scaling") == 0.5
    assert match["scaling"].name == "scaled"
    assert match.op("top") is match.root
    assert match.attr("axis") == -1


def test_commutative_ops_match_in_either_order() -> None:
    for pattern in (P.add(P.scale("s"), "bias"), P.add("bias", P.scale("s"))):
        match = one(pattern)
        assert (match["s"].name, match["bias"].name) == ("scores", "turned")
    assert not matches(GRAPH, P.matmul("v", P.softmax("p")))


def test_a_wrong_first_order_is_taken_back() -> None:
    b = Builder()
    x, y = b.input("x", DType.f32, 2), b.input("y", DType.f32, 2)
    product = b.mul(x, y)
    b.output("z", b.add(product, b.tanh(x)))
    # The first order binds a to x, and only then tanh asks for y.
    (match,) = matches(b.build(), P.add(P.mul("b", "a"), P.tanh("a")))
    assert (match["a"].name, match["b"].name) == ("x", "y")


def test_constants_however_made() -> None:
    assert one(P.add(P.const("c"), P.any("x")))["c"].name == "turned"
    assert miss(P.linear(P.const(), "w"), "out") == Miss(1, "%v is not constant", close=True)


def test_alternatives() -> None:
    pattern = P.softmax(P.one_of(P.mul("a", "b"), P.add("a", "b").bind("sum")))
    assert one(pattern).op("sum").name == "biased"
    assert pattern.kinds == {"softmax"}
    assert P.one_of(P.mul("a", "b"), P.add("a", "b")).kinds == {"mul", "add"}
    assert P.one_of(P.mul("a", "b"), P.any("a")).kinds == frozenset()


def test_an_op_that_may_be_absent() -> None:
    scores = P.maybe("scale", P.matmul("q", "k", transpose_b=True)).bind("scaling")
    assert one(P.add(scores, P.any())).op("scaling").name == "scaled"
    assert one(P.softmax(P.maybe("tanh", P.add("a", "b")).bind("cap"))).get("cap") is None
    with pytest.raises(GraphError, match="the match binds no 'cap'"):
        one(P.softmax(P.maybe("tanh", P.add("a", "b")).bind("cap")))["cap"]


def test_operands_that_may_be_absent_and_any_number_of_them() -> None:
    assert one(P.linear("x", "w", P.optional("b"))).get("b") is None
    assert miss(P.linear("x", "w", "b"), "out") == Miss(0, "linear %out has 2 operands, not 3", close=True)
    match = one(P.concat(P.split("x").bind("piece"), P.rest("more")))
    assert [value.name for value in match.rest("more")] == ["right", "left"]
    assert (match["piece"].name, match.op("piece").name) == ("left", "left")
    assert one(P.concat()).root.name == "joined"
    assert miss(P.concat("a", "b"), "joined").reason == "concat %joined has 3 operands, not 2"


def test_the_deepest_miss_counts() -> None:
    pattern = P.matmul(P.softmax(P.add(P.const(), P.tanh("s"))), "v")
    assert pattern.size == 4
    assert miss(pattern, "context") == Miss(3, "expected tanh, found scale %scaled")
    assert miss(P.matmul(P.tanh("x"), "v"), "scores") == Miss(1, "expected tanh, found the input %q")


def test_reads_like_the_notation() -> None:
    pattern = P.matmul(P.softmax(P.const("w")), P.maybe("scale", "v"), transpose_b=False)
    assert str(pattern) == "matmul(softmax(const(w)), scale(v) or v, transpose_b=False)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: P.sofmax("x"), "there is no op 'sofmax'; did you mean 'softmax'?"),
        (lambda: P.softmax("x", axes=-1), "a pattern asks for the attribute 'axes', which softmax does not have"),
        (lambda: P.softmax("x", "y"), "a pattern of softmax lists 2 operands; it has x"),
        (lambda: P.matmul("x"), "a pattern of matmul lists 1 operands; it has a, b"),
        (lambda: P.softmax(3), "a pattern's operand is a pattern or a name to bind, not 3"),
        (
            lambda: P.linear("x", P.optional("w"), "b"),
            "a pattern of linear has an optional operand before one that must be there",
        ),
    ],
)
def test_mistakes_in_patterns(make, message) -> None:
    with pytest.raises(GraphError) as caught:
        make()
    assert caught.value.message == message
