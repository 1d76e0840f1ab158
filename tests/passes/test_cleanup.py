"""Merging equal ops, removing dead ones, and all of it together."""

from hypothesis import given

from compiler.ir.graph import Graph
from compiler.ir.verifier import verify
from compiler.passes import cleanup, cse, dce
from tests.passes.checks import assert_golden, assert_same_meaning, graph_of
from tests.strategies import graphs

TWICE = """
    input x: f32[B,4]
    a from model.a:
      %.first: f32[B,4] = tanh(%x)
      %.scaled: f32[B,4] = scale(%.first, factor=2.0)
    b from model.b:
      %.first: f32[B,4] = tanh(%x)
      %.scaled: f32[B,4] = scale(%.first, factor=2.0)
      %.sum: f32[B,4] = add(%.scaled, %a.scaled)
    output y = %b.sum
    """


def test_cse_keeps_the_first() -> None:
    after = """
        input x: f32[B,4]
        a from model.a:
          %.first: f32[B,4] = tanh(%x)
          %.scaled: f32[B,4] = scale(%.first, factor=2.0)
        b from model.b:
          %.sum: f32[B,4] = add(%a.scaled, %a.scaled)
        output y = %b.sum
        """
    assert_same_meaning(graph_of(TWICE), assert_golden(cse, TWICE, after))


def test_cse_merges_ops_with_several_results() -> None:
    before = """
        input x: f32[B,4]
        .:
          %a: f32[B,1], %b: f32[B,3] = split(%x, axis=-1, sizes=[1,3])
          %c: f32[B,1], %d: f32[B,3] = split(%x, axis=-1, sizes=[1,3])
          %y: f32[B,4] = concat(%d, %a, axis=1)
        output y = %y
        """
    after = """
        input x: f32[B,4]
        .:
          %a: f32[B,1], %b: f32[B,3] = split(%x, axis=-1, sizes=[1,3])
          %y: f32[B,4] = concat(%b, %a, axis=1)
        output y = %y
        """
    assert_golden(cse, before, after)


def test_cse_tells_apart_what_only_looks_equal() -> None:
    graph = graph_of("""
        input x: f32[B,4]
        .:
          %a: f32[4] = random(key="a", dtype=f32, shape=[4])
          %b: f32[4] = random(key="b", dtype=f32, shape=[4])
          %plus: f32[4] = literal(dtype=f32, shape=[4], values=[0.0])
          %minus: f32[4] = literal(dtype=f32, shape=[4], values=[-0.0])
          %half: f16[4] = cast(%a, dtype=f16)
          %brain: bf16[4] = cast(%a, dtype=bf16)
        output a = %a
        output b = %b
        output plus = %plus
        output minus = %minus
        output half = %half
        output brain = %brain
        """)
    assert cse(graph) is graph


def test_dce_removes_chains_and_keeps_inputs() -> None:
    before = """
        input x: f32[B,4]
        input unused: f32[B,4]
        .:
          %a: f32[B,4] = tanh(%x)
          %b: f32[B,4] = tanh(%a)
          %c: f32[B,4] = relu(%b)
          %p: f32[B,1], %q: f32[B,3] = split(%a, axis=-1, sizes=[1,3])
        output y = %q
        """
    after = """
        input x: f32[B,4]
        input unused: f32[B,4]
        .:
          %a: f32[B,4] = tanh(%x)
          %p: f32[B,1], %q: f32[B,3] = split(%a, axis=-1, sizes=[1,3])
        output y = %q
        """
    assert_golden(dce, before, after)


def test_cleanup_goes_on_until_nothing_is_left() -> None:
    # The transposes are equal only after folding, and only their being equal lets the pieces join.
    before = """
        input x: f32[B,4]
        .:
          %a: f32[4,B] = transpose(%x, perm=[1,0])
          %b: f32[B,4] = transpose(%a, perm=[1,0])
          %c: f32[B,1], %d: f32[B,3] = split(%x, axis=-1, sizes=[1,3])
          %e: f32[B,1], %f: f32[B,3] = split(%b, axis=-1, sizes=[1,3])
          %g: f32[B,4] = concat(%c, %f, axis=-1)
          %y: f32[B,4] = tanh(%g)
        output y = %y
        """
    after = """
        input x: f32[B,4]
        .:
          %y: f32[B,4] = tanh(%x)
        output y = %y
        """
    assert_same_meaning(graph_of(before), assert_golden(cleanup, before, after))


@given(graphs(max_ops=12))
def test_cleanup_preserves_meaning(graph: Graph) -> None:
    cleaned = cleanup(graph)
    verify(cleaned)
    assert cleanup(cleaned) is cleaned
    assert_same_meaning(graph, cleaned, rtol=2e-2, atol=1e-4)


@given(graphs(max_ops=12, odd=True))
def test_each_part_is_idempotent(graph: Graph) -> None:
    for step in (dce, cse):
        once = step(graph)
        assert step(once) is once


@given(graphs(max_ops=12))
def test_cse_and_dce_change_no_bit(graph: Graph) -> None:
    assert_same_meaning(graph, cse(graph))
    assert_same_meaning(graph, dce(graph))
