"""Rounding to nearest, by groups."""

import pytest
import torch

from compiler.ir.dtypes import DType
from compiler.passes.quant.algorithms.scheme import FloatScheme, IntegerScheme


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("group", [0, 8])
def test_no_code_of_the_grid_is_nearer_than_the_chosen_one(bits, asymmetric, group):
    weight = torch.randn(5, 32, generator=torch.Generator().manual_seed(bits)) + 0.1
    scheme = IntegerScheme(bits, group, asymmetric)
    rounded = scheme.nearest(weight)
    scale = rounded.scales.scale.repeat_interleave(group or 32, 1)
    zero = 0 if rounded.scales.zero is None else rounded.scales.zero.repeat_interleave(group or 32, 1)[..., None]
    every = (torch.arange(scheme.low, scheme.high + 1) - zero) * scale[..., None]
    best = (every - weight[..., None]).abs().amin(2)
    torch.testing.assert_close((rounded.dense() - weight).abs(), best, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_no_weight_is_further_than_half_a_step_from_its_code(asymmetric):
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    rounded = IntegerScheme(4, 16, asymmetric).nearest(weight)
    steps = (rounded.dense() - weight).abs() / rounded.scales.scale.repeat_interleave(16, 1)
    assert steps.max() <= 0.5 + 1e-4 + 0.5 * asymmetric  # a zero point is rounded too, and may push an end out by half


@pytest.mark.parametrize("scheme", [IntegerScheme(4, 4), IntegerScheme(3, 4, True), FloatScheme()])
def test_weights_of_zero_have_a_positive_scale(scheme):
    rounded = scheme.nearest(torch.zeros(2, 8))
    assert (rounded.scales.scale > 0).all() and not rounded.dense().any()


@pytest.mark.parametrize("whole", [True, False])
def test_no_float_is_nearer_than_the_chosen_one(whole):
    weight = torch.randn(5, 32, generator=torch.Generator().manual_seed(3))
    rounded = FloatScheme(whole).nearest(weight)
    assert rounded.scales.scale.shape == ((1, 1) if whole else (5, 1))
    bits = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    every = bits[~bits.isnan()] * rounded.scales.scale[..., None]
    best = (every - weight[..., None]).abs().amin(2)
    torch.testing.assert_close((rounded.dense() - weight).abs(), best, rtol=1e-4, atol=1e-7)


def test_three_bits_end_before_those_they_are_stored_in():
    scheme = IntegerScheme(3)
    assert scheme.dtype is DType.i4
    weight = torch.tensor([[-1.0, 1.0, 0.0, 0.999]])
    assert torch.round(weight / scheme.scales(weight).scale).tolist() == [[-3.0, 3.0, 0.0, 3.0]]


def test_groups_are_rows_of_a_narrower_weight():
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    by_rows = IntegerScheme(4).nearest(weight.reshape(16, 8))
    assert torch.equal(IntegerScheme(4, 8).nearest(weight).values, by_rows.values.reshape(4, 32))
