"""Constant folding and identities: golden texts, and equality to the last bit."""

import pytest
from hypothesis import given

from compiler.ir.graph import Graph
from compiler.ir.printer import print_graph
from compiler.ir.trace import Trace
from compiler.ir.verifier import verify
from compiler.passes import fold
from tests.passes.checks import assert_golden, assert_same_meaning, graph_of
from tests.strategies import graphs

CASES = {
    "reshape of reshape": (
        """
        input x: f32[B,2,6]
        .:
          %a: f32[B,12] = reshape(%x, shape=[B,12])
          %y: f32[B,3,4] = reshape(%a, shape=[B,3,4])
        output y = %y
        """,
        """
        input x: f32[B,2,6]
        .:
          %y: f32[B,3,4] = reshape(%x, shape=[B,3,4])  !fold
        output y = %y
        """,
    ),
    "reshape back": (
        """
        input x: f32[B,2,6]
        .:
          %a: f32[B,12] = reshape(%x, shape=[B,12])
          %b: f32[B,2,6] = reshape(%a, shape=[B,2,6])
          %y: f32[B,2,6] = tanh(%b)
        output y = %y
        """,
        """
        input x: f32[B,2,6]
        .:
          %y: f32[B,2,6] = tanh(%x)
        output y = %y
        """,
    ),
    "cast and broadcast to the same type": (
        """
        input x: f32[B,4]
        .:
          %a: f32[B,4] = cast(%x, dtype=f32)
          %b: f32[B,4] = broadcast(%a, shape=[B,4])
          %y: f32[B,4] = tanh(%b)
        output y = %y
        """,
        """
        input x: f32[B,4]
        .:
          %y: f32[B,4] = tanh(%x)
        output y = %y
        """,
    ),
    "broadcast of broadcast": (
        """
        input x: f32[1,4]
        .:
          %a: f32[3,4] = broadcast(%x, shape=[3,4])
          %y: f32[2,3,4] = broadcast(%a, shape=[2,3,4])
        output y = %y
        """,
        """
        input x: f32[1,4]
        .:
          %y: f32[2,3,4] = broadcast(%x, shape=[2,3,4])  !fold
        output y = %y
        """,
    ),
    "transpose of transpose": (
        """
        input x: f32[B,2,6]
        .:
          %a: f32[6,B,2] = transpose(%x, perm=[2,0,1])
          %y: f32[2,6,B] = transpose(%a, perm=[2,0,1])
        output y = %y
        """,
        """
        input x: f32[B,2,6]
        .:
          %y: f32[2,6,B] = transpose(%x, perm=[1,2,0])  !fold
        output y = %y
        """,
    ),
    "transpose back": (
        """
        input x: f32[B,2,6]
        .:
          %a: f32[6,B,2] = transpose(%x, perm=[2,0,1])
          %b: f32[B,2,6] = transpose(%a, perm=[1,2,0])
          %y: f32[B,2,6] = tanh(%b)
        output y = %y
        """,
        """
        input x: f32[B,2,6]
        .:
          %y: f32[B,2,6] = tanh(%x)
        output y = %y
        """,
    ),
    "cast by way of a wider type": (
        """
        input x: f16[B,4]
        .:
          %a: f32[B,4] = cast(%x, dtype=f32)
          %y: bf16[B,4] = cast(%a, dtype=bf16)
          %b: f16[B,4] = cast(%a, dtype=f16)
          %z: f16[B,4] = tanh(%b)
        output y = %y
        output z = %z
        """,
        """
        input x: f16[B,4]
        .:
          %y: bf16[B,4] = cast(%x, dtype=bf16)  !fold
          %z: f16[B,4] = tanh(%x)
        output y = %y
        output z = %z
        """,
    ),
    "scales, one a power of two": (
        """
        input x: f16[B,4]
        .:
          %a: f16[B,4] = scale(%x, factor=0.125)
          %b: f16[B,4] = scale(%a, factor=1.0)
          %y: f16[B,4] = scale(%b, factor=0.3)
        output y = %y
        """,
        """
        input x: f16[B,4]
        .:
          %y: f16[B,4] = scale(%x, factor=0.0375)  !fold
        output y = %y
        """,
    ),
    "slices": (
        """
        input x: f32[B,8]
        .:
          %a: f32[B,8] = slice(%x, axis=1, start=0, size=8)
          %b: f32[B,6] = slice(%a, axis=-1, start=1, size=6)
          %y: f32[B,3] = slice(%b, axis=1, start=2, size=3)
        output y = %y
        """,
        """
        input x: f32[B,8]
        .:
          %y: f32[B,3] = slice(%x, axis=1, start=3, size=3)  !fold
        output y = %y
        """,
    ),
    "one piece, one part": (
        """
        input x: f32[B,8]
        .:
          %a: f32[B,8] = split(%x, axis=-1, sizes=[8])
          %b: f32[B,8] = concat(%a, axis=0)
          %y: f32[B,8] = tanh(%b)
        output y = %y
        """,
        """
        input x: f32[B,8]
        .:
          %y: f32[B,8] = tanh(%x)
        output y = %y
        """,
    ),
    "pieces joined again": (
        """
        input x: f32[B,8]
        .:
          %a: f32[B,2], %b: f32[B,2], %c: f32[B,4] = split(%x, axis=-1, sizes=[2,2,4])
          %abc: f32[B,8] = concat(%a, %b, %c, axis=1)
          %y: f32[B,8] = tanh(%abc)
          %z: f32[B,6] = concat(%b, %c, axis=-1)
        output y = %y
        output z = %z
        """,
        """
        input x: f32[B,8]
        .:
          %y: f32[B,8] = tanh(%x)
          %z: f32[B,6] = slice(%x, axis=-1, start=2, size=6)  !fold
        output y = %y
        output z = %z
        """,
    ),
    "parts cut again": (
        """
        input x: f32[B,2]
        input w: f32[B,3]
        .:
          %both: f32[B,5] = concat(%x, %w, axis=1)
          %a: f32[B,2], %b: f32[B,3] = split(%both, axis=-1, sizes=[2,3])
          %y: f32[B,2] = tanh(%a)
          %z: f32[B,3] = tanh(%b)
        output y = %y
        output z = %z
        """,
        """
        input x: f32[B,2]
        input w: f32[B,3]
        .:
          %y: f32[B,2] = tanh(%x)
          %z: f32[B,3] = tanh(%w)
        output y = %y
        output z = %z
        """,
    ),
    "arithmetic on literals": (
        """
        input x: f32[B,2]
        .:
          %two: f32[] = literal(dtype=f32, shape=[], values=[2.0])
          %pair: f32[2] = literal(dtype=f32, shape=[2], values=[1.0,-0.5])
          %product: f32[2] = mul(%pair, %two)
          %wide: f32[2,2] = broadcast(%two, shape=[2,2])
          %sum: f32[2,2] = add(%wide, %product)
          %y: f32[2,2] = scale(%sum, factor=0.5)
          %same: bool[2,2] = less(%wide, %sum)
        output y = %y
        output wide = %wide
        output same = %same
        """,
        """
        input x: f32[B,2]
        .:
          %wide: f32[2,2] = literal(dtype=f32, shape=[2,2], values=[2.0])  !fold
          %y: f32[2,2] = literal(dtype=f32, shape=[2,2], values=[2.0,0.5,2.0,0.5])  !fold
          %same: bool[2,2] = literal(dtype=bool, shape=[2,2], values=[1,0,1,0])  !fold
        output y = %y
        output wide = %wide
        output same = %same
        """,
    ),
    "zeros of both signs": (
        """
        input x: f32[B,2]
        .:
          %pair: f32[2] = literal(dtype=f32, shape=[2], values=[0.0,1.0])
          %y: f32[2] = scale(%pair, factor=-0.0)
        output y = %y
        """,
        """
        input x: f32[B,2]
        .:
          %y: f32[2] = literal(dtype=f32, shape=[2], values=[-0.0])  !fold
        output y = %y
        """,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    before, after = CASES[case]
    assert_same_meaning(graph_of(before), assert_golden(fold, before, after))


UNCHANGED = {
    "a literal that would be large": """
        .:
          %a: f32[] = literal(dtype=f32, shape=[], values=[2.0])
          %y: f32[64,65] = broadcast(%a, shape=[64,65])
        output y = %y
        """,
    "a dim that is not known": """
        .:
          %a: f32[] = literal(dtype=f32, shape=[], values=[2.0])
          %y: f32[B] = broadcast(%a, shape=[B])
        output y = %y
        """,
    "a weight": """
        .:
          %w: f32[4] = const(data=f32[4] "w" in "missing.safetensors" at 0)
          %y: f32[4] = tanh(%w)
        output y = %y
        """,
    "noise": """
        .:
          %w: f32[4] = random(key="w", dtype=f32, shape=[4])
          %y: f32[4] = tanh(%w)
        output y = %y
        """,
    "pieces in another order": """
        input x: f32[B,4]
        .:
          %a: f32[B,2], %b: f32[B,2] = split(%x, axis=-1, sizes=[2,2])
          %y: f32[B,4] = concat(%b, %a, axis=-1)
        output y = %y
        """,
    "pieces joined along another axis": """
        input x: f32[B,4]
        .:
          %a: f32[B,2], %b: f32[B,2] = split(%x, axis=-1, sizes=[2,2])
          %y: f32[2*B,2] = concat(%a, %b, axis=0)
        output y = %y
        """,
    "parts cut elsewhere": """
        input x: f32[B,2]
        input w: f32[B,3]
        .:
          %both: f32[B,5] = concat(%x, %w, axis=1)
          %y: f32[B,3], %z: f32[B,2] = split(%both, axis=-1, sizes=[3,2])
        output y = %y
        output z = %z
        """,
    "slices along two axes": """
        input x: f32[4,8]
        .:
          %a: f32[4,6] = slice(%x, axis=-1, start=1, size=6)
          %y: f32[2,6] = slice(%a, axis=0, start=0, size=2)
        output y = %y
        """,
}


@pytest.mark.parametrize("case", UNCHANGED)
def test_leaves_alone(case: str) -> None:
    graph = graph_of(UNCHANGED[case])
    assert fold(graph) is graph


DECLINED = {
    "cast_of_cast: f16 does not hold every value of f32": """
        input x: f32[B,4]
        .:
          %a: f16[B,4] = cast(%x, dtype=f16)
          %y: f32[B,4] = cast(%a, dtype=f32)
        output y = %y
        """,
    "cast_of_cast: out of range, f32 to i8 is not defined as f64 to i8 is": """
        input x: f32[B,4]
        .:
          %a: f64[B,4] = cast(%x, dtype=f64)
          %y: i8[B,4] = cast(%a, dtype=i8)
        output y = %y
        """,
    "scale_of_scale: neither 0.3 nor 0.7 is a power of two, so the product would round differently": """
        input x: f32[B,4]
        .:
          %a: f32[B,4] = scale(%x, factor=0.3)
          %y: f32[B,4] = scale(%a, factor=0.7)
        output y = %y
        """,
    "scale_of_scale: the product of 1e+308 and 8.0 is inf": """
        input x: f32[B,4]
        .:
          %a: f32[B,4] = scale(%x, factor=1e+308)
          %y: f32[B,4] = scale(%a, factor=8.0)
        output y = %y
        """,
}


@pytest.mark.parametrize("reason", DECLINED)
def test_declines_and_says_why(reason: str) -> None:
    graph = graph_of(DECLINED[reason])
    with Trace().active() as trace:
        assert fold(graph) is graph
    rule, _, why = reason.partition(": ")
    assert [str(refusal) for refusal in trace.rule("fold", rule).declined.values()] == [f"%y from the graph: {why}"]


@given(graphs(max_ops=12))
def test_preserves_meaning_and_is_idempotent(graph: Graph) -> None:
    verify(graph)
    folded = fold(graph)
    verify(folded)
    assert fold(folded) is folded
    assert print_graph(fold(graph)) == print_graph(folded)
    # Two scales as one round a value once less where the middle one is smaller than the normal numbers.
    assert_same_meaning(graph, folded, rtol=2e-2, atol=1e-4)
