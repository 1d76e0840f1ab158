"""Factors of sizes agree exactly where row-major order makes the same indices of them."""

import math

from hypothesis import given
from hypothesis import strategies as st

from compiler.ir.dims import product_key, symbol
from compiler.passes.parallel.factors import Factor, leaves, quotient, unify

S = symbol("S")


def sizes(factors):
    return [factor.size for factor in leaves(factors)]


def test_heads_of_a_flat_axis():
    flat, heads, width = Factor(128), Factor(4), Factor(32)
    assert unify((flat,), (heads, width)) == []
    assert leaves((flat,)) == [heads, width]


def test_queries_grouped_by_key_heads_into_the_length():
    heads, length = Factor(6), Factor(S)
    kv_heads, rows = Factor(2), Factor(S * 3)
    assert unify((heads, length), (kv_heads, rows)) == []
    assert leaves((heads,))[0] is kv_heads
    assert sizes((heads,)) == [2, 3]
    assert leaves((rows,)) == leaves((heads, length))[1:]


def test_a_second_reshape_refines_the_first():
    flat, heads, width = Factor(24), Factor(6), Factor(4)
    unify((flat,), (heads, width))
    kv_heads, rest = Factor(3), Factor(8)
    assert unify((flat,), (kv_heads, rest)) == []
    assert sizes((flat,)) == [3, 2, 4]
    assert sizes((heads,)) == [3, 2]
    assert sizes((rest,)) == [2, 4]


def test_where_no_factor_agrees_all_is_reported():
    left, right = (Factor(2), Factor(6), Factor(4)), (Factor(2), Factor(4), Factor(6))
    tangled = unify(left, right)
    assert leaves(left[:1]) == leaves(right[:1])
    assert [factor.size for factor in tangled] == [6, 4, 4, 6]


def test_ones_do_not_count():
    left, right = (Factor(1), Factor(5)), (Factor(5), Factor(1), Factor(1))
    assert unify(left, right) == []
    assert leaves(left) == leaves(right)


def test_quotients():
    assert quotient(12, 4) == 3
    assert [quotient(*pair) for pair in ((12, 5), (12, 12), (4, 12), (12, S), (S, 2), (S, S))] == [None] * 6
    assert quotient(S * 4 + 2, 2) == S * 2 + 1
    assert quotient(S * 6, S * 2) == 3
    assert quotient(S * 6 + 3, S * 2 + 1) == 3
    assert quotient(S * 6 + 3, S * 2) is None


shapes = st.lists(st.sampled_from([1, 2, 3, 4, 6, S, S * 2]), max_size=5)


@given(st.lists(st.tuples(shapes, shapes), min_size=1, max_size=4))
def test_unified_products_are_the_same_leaves(pairs):
    factors = [([Factor(size) for size in left], [Factor(size) for size in right]) for left, right in pairs]
    for left, right in factors:
        if product_key([factor.size for factor in left]) == product_key([factor.size for factor in right]):
            tangled = unify(left, right)
            assert tangled or leaves(left) == leaves(right)
    for left, right in factors:
        for factor in (*left, *right):
            fixed = math.prod(size for size in sizes((factor,)) if isinstance(size, int))
            assert product_key(sizes((factor,))) == product_key((factor.size,)), fixed
