"""SmoothQuant's scales, and the search for alpha."""

import pytest
import torch

from compiler.passes.quant.algorithms.activations import round_activations
from compiler.passes.quant.algorithms.scheme import IntegerScheme
from compiler.passes.quant.algorithms.smoothquant import search_alpha, smoothing


def _case():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 16, generator=generator)
    x[:, 3] *= 40
    return x, torch.randn(8, 16, generator=generator)


def test_half_balances_inputs_and_weights():
    x, weight = _case()
    scales = smoothing(x.abs().amax(0), [weight], 0.5)
    torch.testing.assert_close((x / scales).abs().amax(0), (weight * scales).abs().amax(0))


def test_all_of_it_makes_every_channel_one():
    x, weight = _case()
    scales = smoothing(x.abs().amax(0), [weight], 1.0)
    torch.testing.assert_close((x / scales).abs().amax(0), torch.ones(16))


@pytest.mark.parametrize("static", [False, True])
def test_search_finds_the_best_alpha(static):
    x, weight = _case()
    inputs = x.abs().amax(0)

    def error(alpha):
        scales = smoothing(inputs, [weight], alpha)
        amax = (inputs / scales).amax() if static else None
        outputs = round_activations(x / scales, amax) @ IntegerScheme(8).nearest(weight * scales).dense().T
        return float((outputs - x @ weight.T).square().sum())

    alpha, scales = search_alpha(inputs, x, [weight], static=static)
    assert error(alpha) == pytest.approx(min(error(step / 20) for step in range(21)))
    assert error(alpha) < 0.5 * error(0.0)
    assert torch.equal(scales, smoothing(inputs, [weight], alpha))


def test_a_scale_a_token_is_finer_than_one_for_all():
    x = torch.tensor([[1.0, 0.5], [100.0, 50.0]])
    by_token, by_one = round_activations(x, None), round_activations(x, x.abs().amax())
    assert (by_token - x).abs()[0].max() < 0.005 < (by_one - x).abs()[0].max()
