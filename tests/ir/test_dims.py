"""Dimensions and types."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import GraphError
from compiler.ir.dims import Affine, element_count, evaluate, parse_dim, product_key, shape_text, symbol, symbols
from compiler.ir.dtypes import DType
from compiler.ir.types import TensorType, parse_type
from tests.strategies import SYMBOLS, dims

B, S = symbol("B"), symbol("S")
sizes = st.fixed_dictionaries({name: st.integers(0, 50) for name in SYMBOLS})


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (0, "0"),
        (-7, "-7"),
        (B, "B"),
        (-1 * B, "-B"),
        (4 * S + 1, "4*S+1"),
        (B - 2 * S - 3, "B-2*S-3"),
        (1 - S, "-S+1"),
        (S + B, "B+S"),
    ],
)
def test_text_of_a_dim(dim, text):
    assert str(dim) == text
    assert parse_dim(text) == dim


def test_spaces_between_terms_mean_nothing():
    assert parse_dim(" 4 * S +1 - B ") == 4 * S + 1 - B


@given(dims())
def test_parsing_is_the_inverse_of_str(dim):
    assert parse_dim(str(dim)) == dim


@given(dims(), dims(), dims(), st.integers(-4, 4))
def test_arithmetic_obeys_the_laws(a, b, c, k):
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert k * (a + b) == k * a + k * b
    assert a - b == a + -1 * b
    assert a - a == 0
    assert a + 0 == a
    assert a * 1 == a
    assert a * 0 == 0


@given(dims(), dims(), st.integers(-4, 4), sizes)
def test_evaluation_commutes_with_arithmetic(a, b, k, bound):
    assert evaluate(a + b, bound) == evaluate(a, bound) + evaluate(b, bound)
    assert evaluate(a - b, bound) == evaluate(a, bound) - evaluate(b, bound)
    assert evaluate(k * a, bound) == k * evaluate(a, bound)


@given(dims(), dims())
def test_equal_dims_have_equal_hashes_and_one_form(a, b):
    again = (a + b) - b
    assert again == a
    assert hash(again) == hash(a)
    assert isinstance(again, int) == (not symbols(again))


def test_symbols_are_sorted_and_those_that_cancel_are_gone():
    assert symbols(S + B + 1) == ("B", "S")
    assert symbols(S + B - S) == ("B",)
    assert symbols(3) == ()
    assert isinstance(S - S + 3, int)


def test_evaluating_needs_every_symbol():
    with pytest.raises(KeyError, match="S"):
        evaluate(B + S, {"B": 1})


@pytest.mark.parametrize("text", ["4*", "S+", "+", "4 4", "S*4", "4*S*B", "[4]", "4.0", "-", "S B"])
def test_what_is_no_dim(text):
    with pytest.raises(ValueError, match=r"is no dimension: write an integer or a sum such as 4\*S\+1$"):
        parse_dim(text)


def test_an_empty_dim():
    with pytest.raises(ValueError, match=r"^a dimension is empty$"):
        parse_dim("")


def test_element_counts():
    assert element_count((2, 3, 4)) == 24
    assert element_count(()) == 1
    with pytest.raises(GraphError, match=r"^shape \[B,4\] has symbols where a fixed shape is needed$"):
        element_count((B, 4))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ((4 * S,), (4, S), True),
        ((S, B, 6), (2, B, 3, S), True),
        ((2 * B + 2,), (2, B + 1), True),
        ((B + 1,), (B, 1), False),
        ((S, S), (S,), False),
        ((B, 2), (S, 2), False),
    ],
)
def test_product_keys_compare_numbers_of_elements(a, b, same):
    assert (product_key(a) == product_key(b)) is same


@given(st.lists(dims(), max_size=4), sizes, st.data())
def test_product_keys_ignore_order_and_agree_with_the_product(shape, bound, data):
    other = data.draw(st.permutations(shape))
    assert product_key(other) == product_key(shape)
    assert math.prod(evaluate(d, bound) for d in other) == math.prod(evaluate(d, bound) for d in shape)


@given(st.sampled_from(DType), st.lists(dims(), max_size=4))
def test_parsing_a_type_is_the_inverse_of_str(dtype, shape):
    type_ = TensorType(dtype, tuple(shape))
    assert parse_type(str(type_)) == type_
    assert hash(parse_type(str(type_))) == hash(type_)
    assert str(type_) == str(dtype) + shape_text(type_.shape)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f16", "'f16' is no type: write one such as f16[B,S,256]"),
        ("f16[4", "'f16[4' is no type: write one such as f16[B,S,256]"),
        ("f17[4]", "'f17' is no element type; known are " + ", ".join(d.value for d in DType)),
        ("f16[4,]", "a dimension is empty"),
    ],
)
def test_what_is_no_type(text, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        parse_type(text)
    assert str(caught.value) == message


def test_facts_about_types():
    type_ = TensorType(DType.i4, (3, 5))
    assert (type_.rank, type_.elements, type_.nbytes) == (2, 15, 8)
    assert TensorType(DType.f16, (S, 4, B + S)).symbols == ("S", "B")
    assert TensorType(DType.f16, (S, 4)).sizes({"S": 7}) == (7, 4)
    assert type_.with_dtype(DType.f32) == TensorType(DType.f32, (3, 5))
    assert type_.with_shape(Affine((("S", 1),))) == TensorType(DType.i4, (S,))
