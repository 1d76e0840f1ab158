"""How far tensors are from what was expected."""

import math

import pytest
from torch import tensor

from compiler.ir.comparison import relative_error

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 5.0], [3.0, 4.0], 0.2),
        ([1.0, -INF, NAN], [1.0, -INF, NAN], 0.0),
        ([3.0, 5.0, INF], [3.0, 4.0, INF], 0.2),
        ([1.0, -1e9], [1.0, -INF], INF),
        ([1.0, NAN], [1.0, 1.0], INF),
        ([1.0, 0.0], [0.0, 0.0], INF),
    ],
)
def test_relative_error(found, expected, error):
    assert relative_error(tensor(found), tensor(expected)) == pytest.approx(error)


def test_integers_and_bools_compare_too():
    assert relative_error(tensor([True, False]), tensor([True, False])) == 0
    assert relative_error(tensor([1, 2]), tensor([1, 3])) > 0.1
