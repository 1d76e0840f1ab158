"""Factors of sizes agree exactly where row-major order makes the same indices of them."""

import math

from hypothesis import given
from hypothesis import strategies as st

from compiler.ir.dims import product_key, symbol
from compiler.passes.parallel.atoms import Atom, leaves, quotient, unify

S = symbol("S")


def sizes(atoms):
    return [atom.size for atom in leaves(atoms)]


def test_heads_of_a_flat_axis():
    flat, heads, width = Atom(128), Atom(4), Atom(32)
    assert unify((flat,), (heads, width)) == []
    assert leaves((flat,)) == [heads, width]


def test_queries_grouped_by_key_heads_into_the_length():
    heads, length = Atom(6), Atom(S)
    kv_heads, rows = Atom(2), Atom(S * 3)
    assert unify((heads, length), (kv_heads, rows)) == []
    assert leaves((heads,))[0] is kv_heads
    assert sizes((heads,)) == [2, 3]
    assert leaves((rows,)) == leaves((heads, length))[1:]


def test_a_second_reshape_refines_the_first():
    flat, heads, width = Atom(24), Atom(6), Atom(4)
    unify((flat,), (heads, width))
    kv_heads, rest = Atom(3), Atom(8)
    assert unify((flat,), (kv_heads, rest)) == []
    assert sizes((flat,)) == [3, 2, 4]
    assert sizes((heads,)) == [3, 2]
    assert sizes((rest,)) == [2, 4]


def test_where_no_factor_agrees_all_is_reported():
    left, right = (Atom(2), Atom(6), Atom(4)), (Atom(2), Atom(4), Atom(6))
    tangled = unify(left, right)
    assert leaves(left[:1]) == leaves(right[:1])
    assert [atom.size for atom in tangled] == [6, 4, 4, 6]


def test_ones_do_not_count():
    left, right = (Atom(1), Atom(5)), (Atom(5), Atom(1), Atom(1))
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
    atoms = [([Atom(size) for size in left], [Atom(size) for size in right]) for left, right in pairs]
    for left, right in atoms:
        if product_key([atom.size for atom in left]) == product_key([atom.size for atom in right]):
            tangled = unify(left, right)
            assert tangled or leaves(left) == leaves(right)
    for left, right in atoms:
        for atom in (*left, *right):
            fixed = math.prod(size for size in sizes((atom,)) if isinstance(size, int))
            assert product_key(sizes((atom,))) == product_key((atom.size,)), fixed
