"""How far tensors are from what was expected."""

import math

import pytest
import torch
from torch import tensor

from compiler.ir.comparison import kl_divergence, relative_error

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


def test_divergence_is_torchs():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 5, 7, generator=generator).log_softmax(-1)
    expected = torch.nn.functional.kl_div(b, a, reduction="sum", log_target=True)
    assert kl_divergence(a, b) == pytest.approx(float(expected), rel=1e-5)
    assert kl_divergence(a, b) != pytest.approx(kl_divergence(b, a))
    assert kl_divergence(a, a) == 0
