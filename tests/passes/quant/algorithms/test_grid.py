"""Rounding to nearest, by groups."""

import pytest
import torch

from compiler.passes.quant.algorithms.grid import Grid


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("group", [0, 8])
def test_no_code_of_the_grid_is_nearer_than_the_chosen_one(bits, asymmetric, group):
    weight = torch.randn(5, 32, generator=torch.Generator().manual_seed(bits)) + 0.1
    grid = Grid(bits, group, asymmetric)
    rounded = grid.nearest(weight)
    scale = rounded.scales.scale.repeat_interleave(group or 32, 1)
    zero = 0 if rounded.scales.zero is None else rounded.scales.zero.repeat_interleave(group or 32, 1)[..., None]
    every = (torch.arange(grid.low, grid.high + 1) - zero) * scale[..., None]
    best = (every - weight[..., None]).abs().amin(2)
    torch.testing.assert_close((rounded.dense() - weight).abs(), best, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_no_weight_is_further_than_half_a_step_from_its_code(asymmetric):
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    rounded = Grid(4, 16, asymmetric).nearest(weight)
    steps = (rounded.dense() - weight).abs() / rounded.scales.scale.repeat_interleave(16, 1)
    assert steps.max() <= 0.5 + 1e-4 + 0.5 * asymmetric  # a zero point is rounded too, and may push an end out by half


def test_weights_of_zero_have_a_positive_scale():
    rounded = Grid(4, 4).nearest(torch.zeros(2, 8))
    assert torch.equal(rounded.scales.scale, torch.ones(2, 2)) and not rounded.codes.any()


def test_groups_are_rows_of_a_narrower_weight():
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    by_rows = Grid(4).nearest(weight.reshape(16, 8))
    assert torch.equal(Grid(4, 8).nearest(weight).codes, by_rows.codes.reshape(4, 32))
